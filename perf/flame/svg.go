// SPDX-License-Identifier: Apache-2.0

package flame

import (
	"bufio"
	"fmt"
	"hash/fnv"
	"html"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Sizes of the picture, in its own units.
const (
	width     = 1200.0
	margin    = 10.0
	rowHeight = 17.0
	head      = 44.0
	letter    = 6.6 // of the font's width, to know what fits
	tooSmall  = 0.4 // narrower frames are left out, with all above them
)

// node is a frame below one way of calls.
type node struct {
	name  string
	count int64
	calls map[string]*node
}

func (n *node) child(name string) *node {
	c := n.calls[name]
	if c == nil {
		c = &node{name: name, calls: map[string]*node{}}
		n.calls[name] = c
	}
	return c
}

// tree joins the stacks at the root.
func (g *Graph) tree() *node {
	root := &node{name: "all", calls: map[string]*node{}, count: g.total}
	for stack, count := range g.stacks {
		at := root
		for name := range strings.SplitSeq(stack, ";") {
			at = at.child(name)
			at.count += count
		}
	}
	return root
}

// visible gives the rows that n needs when a sample is so wide.
func (n *node) visible(each float64) int {
	rows := 0
	if float64(n.count)*each < tooSmall {
		return 0
	}
	for _, c := range n.calls {
		rows = max(rows, c.visible(each))
	}
	return rows + 1
}

// WriteSVG draws the graph: the root at the bottom, as wide as all samples;
// above each frame what it called, as wide as the time below it. Pointing at a
// frame shows its name and share. There is no script in it and nothing outside
// is needed.
func (g *Graph) WriteSVG(w io.Writer, title string) error {
	if g.total == 0 {
		return errNoSamples
	}
	root := g.tree()
	each := (width - 2*margin) / float64(g.total)
	rows := root.visible(each)
	height := head + float64(rows)*rowHeight + margin
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" font-family="ui-monospace, monospace" font-size="11">`+"\n", width, height, width, height)
	fmt.Fprintf(b, "<title>%s</title>\n", html.EscapeString(clean(title)))
	b.WriteString("<style>rect:hover{stroke:#000}text{pointer-events:none}</style>\n")
	fmt.Fprintf(b, `<rect width="%.0f" height="%.0f" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(b, `<text x="%.0f" y="18" font-size="14">%s</text>`+"\n", margin, html.EscapeString(clean(title)))
	fmt.Fprintf(b, `<text x="%.0f" y="34" fill="#57606a">%d samples of busy processors; blue: kernel, orange: user space</text>`+"\n", margin, g.total)
	g.draw(b, root, margin, height-margin-rowHeight, each)
	b.WriteString("</svg>\n")
	return b.Flush()
}

func (g *Graph) draw(b *bufio.Writer, n *node, x, y, each float64) {
	wide := float64(n.count) * each
	if wide < tooSmall {
		return
	}
	name := strings.TrimSuffix(n.name, kernelMark)
	fmt.Fprintf(b, `<g><title>%s, %d samples, %.1f %%</title><rect x="%.1f" y="%.0f" width="%.1f" height="%.0f" rx="1" fill="%s"/>`,
		html.EscapeString(name), n.count, 100*float64(n.count)/float64(g.total), x, y, max(wide-0.3, 0.1), rowHeight-1, colour(n.name))
	if room := int((wide - 6) / letter); room >= 3 {
		fmt.Fprintf(b, `<text x="%.1f" y="%.0f">%s</text>`, x+3, y+12, html.EscapeString(shorten(name, room)))
	}
	b.WriteString("</g>\n")
	for _, k := range slices.Sorted(maps.Keys(n.calls)) {
		c := n.calls[k]
		g.draw(b, c, x, y-rowHeight, each)
		x += float64(c.count) * each
	}
}

// shorten keeps a name within n characters.
func shorten(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-2]) + ".."
}

// colour tells kernel from user space, and neighbours from each other.
func colour(name string) string {
	h := fnv.New32a()
	_, _ = io.WriteString(h, name) // never fails
	v := int(h.Sum32() % 40)
	if strings.HasSuffix(name, kernelMark) {
		return fmt.Sprintf("#%02x%02x%02x", 120+v, 165+v, 225)
	}
	return fmt.Sprintf("#%02x%02x%02x", 235, 150+v, 70+v)
}
