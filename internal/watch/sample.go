// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"cmp"
	"slices"
	"time"

	"kohaku/internal/api"
)

// line is one runner at one moment.
type line struct {
	api.Allocation
	rate  Rate
	known bool // rate is
}

func (l line) state() string {
	if l.IsActive {
		return "active"
	}
	return "inactive"
}

// series turns one status after the other into lines with rates.
type series struct {
	at   time.Time // of last; with a monotonic reading
	last map[string]*api.Counters
}

// add takes a status and gives a line for each runner, in its order.
func (s *series) add(status api.Status, at time.Time) []line {
	lines := make([]line, 0, len(status.Allocations))
	last := make(map[string]*api.Counters, len(status.Allocations))
	for _, a := range status.Allocations {
		l := line{Allocation: a}
		l.rate, l.known = between(s.last[a.RunnerName], a.Counters, at.Sub(s.at))
		last[a.RunnerName] = a.Counters
		lines = append(lines, l)
	}
	s.at, s.last = at, last
	return lines
}

// problems are the status's own; those of runners are among them.
func problems(s api.Status) []string {
	var out []string
	for _, p := range s.Problems {
		out = append(out, api.Printable(p))
	}
	return out
}

// order is what lines are sorted by.
type order struct {
	key  rune // of orders
	back bool
}

// orders are the keys that a person may press, with what they sort by and how two
// lines then compare. Ties go by id.
var orders = []struct {
	key     rune
	name    string
	compare func(a, b line) int
}{
	{'i', "id", func(a, b line) int { return cmp.Compare(a.RunnerID, b.RunnerID) }},
	{'n', "name", func(a, b line) int { return cmp.Compare(a.RunnerName, b.RunnerName) }},
	// Those that need a person first.
	{'s', "state", func(a, b line) int { return cmp.Compare(b.state(), a.state()) }},
	{'a', "seen", func(a, b line) int { return a.LastUsed.Compare(b.LastUsed) }},
	{'r', "rx", func(a, b line) int { return cmp.Compare(b.rate.InBits, a.rate.InBits) }},
	{'t', "tx", func(a, b line) int { return cmp.Compare(b.rate.OutBits, a.rate.OutBits) }},
	{'d', "drops", func(a, b line) int { return cmp.Compare(b.rate.Drops, a.rate.Drops) }},
}

func (o order) name() string {
	for _, k := range orders {
		if k.key == o.key {
			return k.name
		}
	}
	return ""
}

// sort sorts lines in place.
func (o order) sort(lines []line) {
	for _, k := range orders {
		if k.key != o.key {
			continue
		}
		slices.SortFunc(lines, func(a, b line) int {
			c := k.compare(a, b)
			if o.back {
				c = -c
			}
			return cmp.Or(c, cmp.Compare(a.RunnerID, b.RunnerID))
		})
	}
}
