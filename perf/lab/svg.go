// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// Sizes of the picture, in its own units.
const (
	svgColumn = 340 // one topology in one profile
	svgRow    = 18  // one bar
	svgLabel  = 96
	svgBar    = 150
	svgMargin = 16
	svgHead   = 58
)

// colours of the data paths, which are told apart by their names as well. They
// stand out on light and on dark paper.
var colours = map[string]string{Veth: "#8a8f98", Kernel: "#4c78a8", Userspace: "#e4572e"}

const otherColour = "#9a8c6b"

// WriteSVG writes a picture: a column for each profile and topology, a block of
// bars for each workload. It has no outside references and no script.
func (r *Report) WriteSVG(w io.Writer) error {
	type column struct {
		title  string
		groups []group
	}
	var columns []column
	for _, g := range r.groups() {
		t := g.profile + ", " + topologyTitle(g.topology)
		if n := len(columns); n == 0 || columns[n-1].title != t {
			columns = append(columns, column{title: t})
		}
		c := &columns[len(columns)-1]
		c.groups = append(c.groups, g)
	}
	height := 0
	for _, c := range columns {
		h := 0
		for _, g := range c.groups {
			h += 30 + svgRow*len(g.of)
		}
		height = max(height, h)
	}
	height += svgHead + 24 + svgMargin
	width := max(len(columns), 1)*svgColumn + svgMargin

	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" font-family="system-ui, sans-serif">`+"\n", width, height, width, height)
	b.WriteString("<title>Data paths compared</title>\n")
	b.WriteString("<style>text{fill:#24292f}.q{fill:#57606a}.p{fill:#ffffff}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.q{fill:#9198a1}.p{fill:#0d1117}}</style>\n")
	fmt.Fprintf(&b, `<rect class="p" width="%d" height="%d" rx="6"/>`+"\n", width, height)
	text := func(x, y float64, size int, class, anchor, s string) {
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" font-size="%d" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, size, class, anchor, html.EscapeString(s))
	}
	text(svgMargin, 26, 15, "", "start", "Data paths compared: medians, and the ratio to the kernel's VXLAN")
	text(svgMargin, 44, 11, "q", "start", fmt.Sprintf("%s, %d CPUs, Linux %s, %s", r.Machine.Processor, r.Machine.CPUs, r.Machine.Kernel, r.Started.Format("2006-01-02")))
	for i, c := range columns {
		x := float64(svgMargin + i*svgColumn)
		y := float64(svgHead + 14)
		text(x, y, 13, "", "start", c.title)
		for _, g := range c.groups {
			y += 24
			title := g.workload.Title + ", " + g.workload.Unit
			if g.workload.Lower {
				title += " (shorter is better)"
			}
			text(x, y, 11, "q", "start", title)
			y += 6
			for _, m := range g.of {
				colour, ok := colours[m.DataPath]
				if !ok {
					colour = otherColour
				}
				long := max(m.Value/g.longest()*svgBar, 1)
				text(x+svgLabel-6, y+12, 11, "", "end", m.DataPath)
				fmt.Fprintf(&b, `<rect x="%.0f" y="%.0f" width="%.1f" height="%d" rx="2" fill="%s"/>`+"\n", x+svgLabel, y+2, long, svgRow-5, colour)
				figure := number(m.Value)
				if m.Ratio != 0 {
					figure += fmt.Sprintf("  ×%.2f", m.Ratio)
				}
				text(x+svgLabel+long+5, y+12, 11, "", "start", figure)
				y += svgRow
			}
		}
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}
