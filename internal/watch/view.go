// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"fmt"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"kohaku/internal/api"
)

// The screen, from the top: what sums up, the sum of all rates, an empty line, the
// table with its header, problems if there are any, and the keys. Colour only
// repeats what a word says.
var (
	bold   = ansi.NewStyle().Bold()
	faint  = ansi.NewStyle().Faint()
	green  = ansi.NewStyle().ForegroundColor(ansi.Green)
	yellow = ansi.NewStyle().ForegroundColor(ansi.Yellow)
	red    = ansi.NewStyle().ForegroundColor(ansi.Red)
)

// View implements tea.Model.
func (m model) View() tea.View {
	v := tea.NewView(m.screen())
	v.AltScreen = true
	v.WindowTitle = "kohaku status"
	return v
}

// maxProblems bounds the lines that problems take.
func (m model) maxProblems() int { return max(m.height/4, 1) }

// shownProblems are as many as there is room for; the last one says how many are
// left out.
func (m model) shownProblems() []string {
	all := problems(m.status)
	if room := m.maxProblems(); len(all) > room {
		rest := len(all) - room + 1
		all = append(all[:room-1:room-1], fmt.Sprintf("... and %d more: kohaku status", rest))
	}
	return all
}

// room is how many runners fit.
func (m model) room() int {
	n := m.height - 5 // two lines above, an empty one, the header, the keys
	if p := len(m.shownProblems()); p > 0 {
		n -= p + 1
	}
	return max(n, 1)
}

func (m model) screen() string {
	var out []string
	add := func(s string) { out = append(out, ansi.Truncate(s, m.width, "…")) }
	add(m.head())
	add(m.totals())
	add("")
	if m.status.Enabled {
		columns := m.columns()
		add(faint.Styled(m.row(columns, func(c column) string { return m.title(c) })))
		for _, l := range m.lines[min(m.offset, len(m.lines)):min(m.offset+m.room(), len(m.lines))] {
			add(m.row(columns, func(c column) string { return c.text(l, m.now) }))
		}
	}
	shown := m.shownProblems()
	below := 1
	if len(shown) > 0 {
		below += len(shown) + 1
	}
	for len(out) < m.height-below {
		out = append(out, "")
	}
	if len(shown) > 0 {
		add(bold.Styled("Problems"))
		for _, p := range shown {
			add("  " + p)
		}
	}
	add(faint.Styled(m.keys()))
	return strings.Join(out, "\n")
}

func (m model) head() string {
	s := m.status
	switch {
	case m.at.IsZero() && m.err == nil:
		return "asking the Host ..."
	case m.at.IsZero():
		return red.Styled("The Host does not answer")
	case !s.Enabled:
		return yellow.Styled("Overlay off")
	}
	state := green.Styled("Overlay ok")
	if len(s.Problems) > 0 || s.Stats.InactiveAllocations > 0 {
		state = yellow.Styled("Overlay degraded")
	}
	return fmt.Sprintf("%s: %d of %d runners active, problems: %d   %s, Host %s", state,
		s.Stats.ActiveAllocations, s.Stats.TotalAllocations, len(s.Problems), api.Printable(s.SubnetConfig), s.HostIP)
}

func (m model) totals() string {
	if m.err != nil {
		text := api.Printable(m.err.Error())
		if !m.at.IsZero() {
			text = fmt.Sprintf("no answer since %s (%s ago): %s", m.at.Format("15:04:05"), age(m.at, m.now), text)
		}
		return red.Styled(text)
	}
	var sum Rate
	known := false
	for _, l := range m.lines {
		if l.known {
			sum, known = sum.plus(l.rate), true
		}
	}
	if !known {
		return faint.Styled("rates follow with the next answer")
	}
	return fmt.Sprintf("rx %sbit/s %s frames/s, tx %sbit/s %s frames/s, drops %s/s",
		short(sum.InBits), short(sum.InFrames), short(sum.OutBits), short(sum.OutFrames), short(sum.Drops))
}

func (m model) keys() string {
	by := m.order.name()
	if m.order.back {
		by += ", backwards"
	}
	where := ""
	if n := len(m.lines); n > m.room() {
		where = fmt.Sprintf("  %d-%d of %d", m.offset+1, min(m.offset+m.room(), n), n)
	}
	return fmt.Sprintf("q quit  up/down scroll  sort: i n s a r t d (by %s)%s", by, where)
}

// column is one of the table.
type column struct {
	title string
	sort  rune // the order that goes by it; 0: none
	width int  // 0: what is left
	right bool
	text  func(l line, now time.Time) string
}

func rate(of func(Rate) float64) func(line, time.Time) string {
	return func(l line, _ time.Time) string {
		if !l.known {
			return "-"
		}
		return short(of(l.rate))
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// wide is from where on there is room for more columns.
const wide = 120

// columns are those that fit.
func (m model) columns() []column {
	id := 3
	for _, l := range m.lines {
		id = max(id, len(fmt.Sprint(l.RunnerID)))
	}
	all := []column{
		{title: "RUNNER", sort: 'n', text: func(l line, _ time.Time) string { return api.Printable(l.RunnerName) }},
		{title: "STATE", sort: 's', width: 8, text: func(l line, _ time.Time) string { return l.state() }},
		{title: "ID", sort: 'i', width: id, right: true, text: func(l line, _ time.Time) string { return fmt.Sprint(l.RunnerID) }},
		{title: "SEEN", sort: 'a', width: 5, right: true, text: func(l line, now time.Time) string { return age(l.LastUsed, now) }},
		{title: "RX bit/s", sort: 'r', width: 9, right: true, text: rate(func(r Rate) float64 { return r.InBits })},
		{title: "TX bit/s", sort: 't', width: 9, right: true, text: rate(func(r Rate) float64 { return r.OutBits })},
		{title: "RX fr/s", width: 7, right: true, text: rate(func(r Rate) float64 { return r.InFrames })},
		{title: "TX fr/s", width: 7, right: true, text: rate(func(r Rate) float64 { return r.OutFrames })},
		{title: "DROP/s", sort: 'd', width: 7, right: true, text: rate(func(r Rate) float64 { return r.Drops })},
	}
	if m.width >= wide {
		all = append(all,
			column{title: "DEVICE", width: 8, text: func(l line, _ time.Time) string { return orDash(api.Printable(l.VXLANDevice)) }},
			column{title: "SUBNET", width: 18, text: func(l line, _ time.Time) string { return l.Subnet.String() }},
			column{title: "UNDERLAY", width: 15, text: func(l line, _ time.Time) string {
				if !l.PhysicalIP.IsValid() {
					return "-"
				}
				return l.PhysicalIP.String()
			}})
	}
	left := m.width - (len(all) - 1)
	for _, c := range all {
		left -= c.width
	}
	all[0].width = max(left, 6)
	return all
}

// title marks the column that the table is sorted by.
func (m model) title(c column) string {
	if c.sort == 0 || c.sort != m.order.key {
		return c.title
	}
	if m.order.back {
		return c.title + "^"
	}
	return c.title + "v"
}

// row lays cells out.
func (m model) row(columns []column, text func(column) string) string {
	var b strings.Builder
	for i, c := range columns {
		if i > 0 {
			b.WriteByte(' ')
		}
		s := ansi.Truncate(text(c), c.width, "…")
		pad := strings.Repeat(" ", max(c.width-ansi.StringWidth(s), 0))
		switch s {
		case "active":
			s = green.Styled(s)
		case "inactive":
			s = yellow.Styled(s)
		}
		if c.right {
			s = pad + s
		} else {
			s += pad
		}
		b.WriteString(s)
	}
	return strings.TrimRight(b.String(), " ")
}
