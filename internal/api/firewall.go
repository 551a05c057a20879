// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// What happened to rules of ours.
const (
	FirewallWiped     = "wiped"     // they were gone
	FirewallDisplaced = "displaced" // others' rules came before them
)

// Firewall is how one machine's packet filters stand, and what others did to the
// overlay's rules there.
type Firewall struct {
	Backends []string        `json:"backends,omitempty"` // what has rules of ours: "iptables-nft", "firewalld", ...
	Events   []FirewallEvent `json:"events,omitempty"`   // the last ones, oldest first
}

// FirewallEvent is one time that rules of ours vanished and came back.
type FirewallEvent struct {
	When time.Time `json:"when"`
	What string    `json:"what"`         // FirewallWiped or FirewallDisplaced
	Lost string    `json:"lost"`         // which, for a person
	By   string    `json:"by,omitempty"` // the program that did it, as the kernel named it
	// BackAfter is how long they were gone, in seconds; with AtMost set, a bound.
	BackAfter float64 `json:"back_after"`
	AtMost    bool    `json:"at_most,omitempty"`
}

// String tells the event in a few words: "rules wiped 14:02:10 by nft, back after 80 ms".
func (e FirewallEvent) String() string {
	var b strings.Builder
	b.WriteString("rules " + Printable(e.What) + " " + e.When.Format(time.TimeOnly))
	if e.By != "" {
		b.WriteString(" by " + Printable(e.By))
	}
	if e.AtMost {
		b.WriteString(", back within ")
	} else {
		b.WriteString(", back after ")
	}
	if ms := e.BackAfter * 1000; ms < 9999.5 {
		fmt.Fprintf(&b, "%d ms", int64(math.Ceil(ms)))
	} else {
		fmt.Fprintf(&b, "%.0f s", e.BackAfter)
	}
	return b.String()
}

const (
	maxFirewallBackends = 8
	maxFirewallEvents   = 4 // in a heartbeat
	maxFirewallWord     = 64
	maxFirewallText     = 1024
	maxBackAfter        = 1e9 // seconds
)

// FitFirewall cuts what a machine says of its firewall down to what a heartbeat may
// carry; nil when there is nothing to say.
func FitFirewall(f Firewall) *Firewall {
	if len(f.Backends)+len(f.Events) == 0 {
		return nil
	}
	f.Backends = slices.Clone(f.Backends[:min(len(f.Backends), maxFirewallBackends)])
	f.Events = slices.Clone(f.Events[max(len(f.Events)-maxFirewallEvents, 0):])
	for i := range f.Events {
		e := &f.Events[i]
		e.By, e.Lost = fit(e.By, maxFirewallWord), fit(e.Lost, maxFirewallText)
	}
	return &f
}

func fit(s string, most int) string {
	s = Printable(s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most-3], "") + "..."
	}
	return s
}

// check looks at what a Runner says of its firewall.
func (f *Firewall) check() error {
	if f == nil {
		return nil
	}
	if len(f.Backends) > maxFirewallBackends {
		return &FieldError{"firewall.backends", fmt.Sprintf("%d entries, at most %d are allowed", len(f.Backends), maxFirewallBackends)}
	}
	if len(f.Events) > maxFirewallEvents {
		return &FieldError{"firewall.events", fmt.Sprintf("%d entries, at most %d are allowed", len(f.Events), maxFirewallEvents)}
	}
	for _, b := range f.Backends {
		if err := checkText("firewall.backends", b, maxFirewallWord); err != nil {
			return err
		}
	}
	for _, e := range f.Events {
		if e.What != FirewallWiped && e.What != FirewallDisplaced {
			return &FieldError{"firewall.events.what", fmt.Sprintf("%q is neither %q nor %q", e.What, FirewallWiped, FirewallDisplaced)}
		}
		if err := checkText("firewall.events.by", e.By, maxFirewallWord); err != nil {
			return err
		}
		if err := checkText("firewall.events.lost", e.Lost, maxFirewallText); err != nil {
			return err
		}
		if !(e.BackAfter >= 0 && e.BackAfter <= maxBackAfter) {
			return &FieldError{"firewall.events.back_after", "not a time in seconds"}
		}
	}
	return nil
}
