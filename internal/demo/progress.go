// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
	"strings"
)

// progress writes what a person watches:
//
//	✓   0.12 s  ping container-1 > container-2
//	            5 of 5 answered, ...
//
// On a terminal a running step has a line of its own, which its result replaces.
type progress struct {
	w      io.Writer
	colour bool
	redraw bool
}

func newProgress(o Options) *progress { return &progress{o.Progress, o.Colour, o.Redraw} }

const margin = "            "

const (
	green  = "32"
	red    = "31"
	faint  = "2"
	strong = "1"
)

func (p *progress) in(colour, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// printf ignores errors: a person who closed the terminal watches no more, and
// the result does not depend on it.
func (p *progress) printf(format string, args ...any) { fmt.Fprintf(p.w, format, args...) }

func (p *progress) lines(lines []string) {
	for _, l := range lines {
		p.printf("%s\n", l)
	}
}

func (p *progress) begin(name string) {
	if p.redraw {
		p.printf("%s", p.in(faint, "…           "+name))
	}
}

func (p *progress) interrupted(name string) {
	if p.redraw {
		p.printf("\r\x1b[K")
	}
	p.printf("Interrupted at: %s. Nothing stays behind.\n", name)
}

func (p *progress) end(s Step) {
	if p.redraw {
		p.printf("\r\x1b[K")
	}
	mark := p.in(green, "✓")
	if !s.OK {
		mark = p.in(red, "✗")
	}
	p.printf("%s %6.2f s  %s\n", mark, s.Seconds, p.in(strong, s.Name))
	for _, d := range s.Detail {
		p.printf("%s\n", strings.TrimRight(margin+d, " "))
	}
	if s.Error != "" {
		p.printf("%s%s\n", margin, p.in(red, strings.ReplaceAll(s.Error, "\n", "\n"+margin)))
	}
}

const picture = `
   container-1 10.1.0.2                                    container-2 10.2.0.2
        |                                                       |
   +----+-----+   VXLAN, VNI 101   +------+   VXLAN, VNI 102   ++---------+   +---------+
   | runner-1 |~~~~~~~~~~~~~~~~~~~~| host |~~~~~~~~~~~~~~~~~~~~| runner-2 |   | outside |
   +----+-----+                    +--+---+                    ++---------+   +----+----+
        | 192.0.2.2                   | 192.0.2.1               | 192.0.2.3       | 192.0.2.4
   =====+=============================+=========================+=================+=====
                                    the underlay: one switch
`

func (p *progress) picture() { p.printf("%s\n", strings.TrimPrefix(picture, "\n")) }

func (p *progress) summary(r Result) {
	failed := []string{}
	for _, s := range r.Steps {
		if !s.OK {
			failed = append(failed, s.Name)
		}
	}
	p.printf("\n")
	if len(failed) > 0 {
		p.printf("%s %d of %d steps did not hold: %s\n", p.in(red, "✗"), len(failed), len(r.Steps), strings.Join(failed, "; "))
		return
	}
	p.printf("%s All %d steps held, in %.1f s.\n", p.in(green, "✓"), len(r.Steps), r.Seconds)
	p.printf("  Two containers on two machines talked to each other, to the Host and to the outside.\n")
	if r.Transfer != nil && len(r.Pings) > 0 {
		p.printf("  Round trip %s, one TCP stream %.2f Gbit/s through two tunnels, hashed at both ends.\n",
			millis(r.Pings[0].Avg), r.Transfer.BitsPerSecond()/1e9)
	}
	p.printf("  Every tunnel was made by kohaku itself; the kernel had no VXLAN device.\n")
}
