// SPDX-License-Identifier: Apache-2.0

// Package flame turns what perf(1) recorded into a flame graph: how much of the
// processor time was spent below which calls. It reads the text of "perf script
// -F comm,ip,sym", folds equal stacks into one, and draws them.
package flame

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

const (
	maxLine   = 64 << 10 // of perf's output, in bytes
	maxDepth  = 256      // frames of a stack; what is deeper is cut off at the root's end
	maxName   = 200      // bytes of a frame's name
	maxStacks = 200_000  // different ones
)

// idle is the process that perf names when a processor does nothing.
const idle = "swapper"

// Graph is a set of stacks and how often each was seen. Make one with Fold.
type Graph struct {
	stacks map[string]int64 // frames from the root, joined by semicolons
	total  int64
}

// Samples is how many stacks were folded, idle processors' left out.
func (g *Graph) Samples() int64 { return g.total }

// Fold reads samples until the end of r. A sample is a line with the name of the
// process, then for each frame, innermost first, a line that starts with white
// space: address and symbol; an empty line ends it. Frames of the kernel get the
// suffix "_[k]". Samples of idle processors do not count.
func Fold(r io.Reader) (*Graph, error) {
	g := &Graph{stacks: map[string]int64{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	var process string
	var frames []string // innermost first
	end := func() error {
		if process == "" {
			return nil
		}
		name := process
		process = ""
		if name == idle {
			return nil
		}
		return g.add(name, frames)
	}
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "":
			if err := end(); err != nil {
				return nil, err
			}
		case line[0] == ' ' || line[0] == '\t':
			if process != "" && len(frames) < maxDepth {
				frames = append(frames, frame(line))
			}
		case line[0] == '#':
		default:
			if err := end(); err != nil {
				return nil, err
			}
			process, frames = clean(strings.TrimSuffix(strings.TrimSpace(line), ":")), frames[:0]
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading perf's samples: %w", err)
	}
	return g, end()
}

func (g *Graph) add(process string, frames []string) error {
	var b strings.Builder
	b.WriteString(process)
	for _, f := range slices.Backward(frames) {
		b.WriteByte(';')
		b.WriteString(f)
	}
	if _, known := g.stacks[b.String()]; !known && len(g.stacks) >= maxStacks {
		return fmt.Errorf("more than %d different stacks: record for a shorter time", maxStacks)
	}
	g.stacks[b.String()]++
	g.total++
	return nil
}

// frame gives the name of a frame from perf's line about it.
func frame(line string) string {
	address, symbol, _ := strings.Cut(strings.TrimSpace(line), " ")
	symbol = clean(symbol)
	if symbol == "" || symbol == "[unknown]" {
		symbol = "?"
	}
	// The upper half of the address space is the kernel's, on every architecture
	// that Linux calls 64 bit.
	if a, err := strconv.ParseUint(address, 16, 64); err == nil && a>>63 == 1 {
		symbol += kernelMark
	}
	return symbol
}

// kernelMark is how folded stacks mark frames of the kernel, by convention.
const kernelMark = "_[k]"

// clean makes a name harmless in the folded format and in a picture.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == ';':
			return ':'
		case r < ' ' || r == 0x7f || r == '\uFFFD' || r == 0xFFFE || r == 0xFFFF:
			return -1
		}
		return r
	}, strings.ToValidUTF8(strings.TrimSpace(s), ""))
	if len(s) > maxName {
		s = strings.ToValidUTF8(s[:maxName], "")
	}
	return s
}

// errNoSamples tells that there is nothing to draw.
var errNoSamples = errors.New("perf recorded no samples of anything but idle processors")

// WriteFolded writes the stacks as text: one in a line, frames from the root
// joined by semicolons, a space, how often. Other tools read it too.
func (g *Graph) WriteFolded(w io.Writer) error {
	if g.total == 0 {
		return errNoSamples
	}
	b := bufio.NewWriter(w)
	for _, s := range slices.Sorted(maps.Keys(g.stacks)) {
		fmt.Fprintf(b, "%s %d\n", s, g.stacks[s])
	}
	return b.Flush()
}
