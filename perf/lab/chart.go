// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"io"
	"strings"
)

// barWidth is the length of the longest bar, in characters; with its labels a
// line fits 80 columns.
const barWidth = 40

// blocks draw an eighth of a character each.
var blocks = []rune(" ▏▎▍▌▋▊▉█")

// bar draws a share of barWidth; what is not nothing is seen.
func bar(share float64) string {
	eighths := int(min(max(share, 0), 1)*barWidth*8 + 0.5)
	if share > 0 && eighths == 0 {
		eighths = 1
	}
	s := strings.Repeat(string(blocks[8]), eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string(blocks[rest])
	}
	return s
}

// group is what one chart compares: all data paths under one workload.
type group struct {
	profile, topology string
	workload          Workload
	of                []*Measurement
}

// groups gives the charts in order.
func (r *Report) groups() []group {
	var out []group
	for _, m := range r.sorted() {
		if m.Rounds == 0 {
			continue
		}
		n := len(out)
		if n == 0 || out[n-1].profile != m.Profile || out[n-1].topology != m.Topology || out[n-1].workload.Name != m.Workload {
			w, _ := workload(m.Workload)
			out = append(out, group{profile: m.Profile, topology: m.Topology, workload: w})
			n++
		}
		out[n-1].of = append(out[n-1].of, m)
	}
	return out
}

func (g group) longest() float64 {
	v := 0.0
	for _, m := range g.of {
		v = max(v, m.Value)
	}
	return v
}

// topologyTitle names a topology for a heading.
func topologyTitle(t string) string {
	if t == Hop {
		return "one hop"
	}
	return "through a hub"
}

// WriteChart writes bars for a terminal.
func (r *Report) WriteChart(w io.Writer) error {
	section := ""
	for _, g := range r.groups() {
		if s := g.profile + ", " + topologyTitle(g.topology); s != section {
			section = s
			if _, err := fmt.Fprintf(w, "\n%s\n", s); err != nil {
				return err
			}
		}
		better := ""
		if g.workload.Lower {
			better = " (shorter is better)"
		}
		if _, err := fmt.Fprintf(w, "  %s, %s%s\n", g.workload.Title, g.workload.Unit, better); err != nil {
			return err
		}
		for _, m := range g.of {
			line := fmt.Sprintf("    %-14s %7s %s", m.DataPath, number(m.Value), bar(m.Value/g.longest()))
			if m.Ratio != 0 {
				line += fmt.Sprintf(" %.2f", m.Ratio)
			}
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
	}
	return nil
}
