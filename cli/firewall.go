// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"kohaku/internal/api"
)

// shownEvents is how many events of each machine's firewall the status prints; the
// JSON has all that are kept.
const shownEvents = 3

// firewallLines tell what others did to the overlay's rules of late: past trouble,
// healed by now, and so no problem.
func firewallLines(s api.Status) []string {
	var out []string
	add := func(name string, f *api.Firewall) {
		if f == nil {
			return
		}
		for _, e := range f.Events[max(len(f.Events)-shownEvents, 0):] {
			e.When = e.When.Local()
			out = append(out, name+": "+e.String()+" ("+api.Printable(e.Lost)+")")
		}
	}
	add("Host", s.Firewall)
	for _, a := range s.Allocations {
		add(api.Printable(a.RunnerName), a.RunnerFirewall)
	}
	return out
}
