// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
)

// Whatever a machine has to say of its firewall fits into a heartbeat that the Host
// takes.
func TestFitFirewall(t *testing.T) {
	if FitFirewall(Firewall{}) != nil {
		t.Error("nothing to say, and something was said")
	}
	var f Firewall
	for range 100 {
		f.Backends = append(f.Backends, "iptables-nft")
		f.Events = append(f.Events, FirewallEvent{When: time.Now(), What: FirewallWiped, By: strings.Repeat("\x1bnft ", 50), Lost: strings.Repeat("é\n", 2000), BackAfter: 1})
	}
	f.Events[99].By = "last"
	fit := FitFirewall(f)
	if err := fit.check(); err != nil {
		t.Error(err)
	}
	if n := len(fit.Events); n != maxFirewallEvents || fit.Events[n-1].By != "last" {
		t.Errorf("%d events, the last one by %q", n, fit.Events[n-1].By)
	}
	if body, err := json.Marshal(fit); err != nil || len(body) > MaxBody/4 {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	if len(f.Events[0].Lost) < 4000 {
		t.Error("the original was cut")
	}
}

func TestFirewallCheck(t *testing.T) {
	good := func() Firewall {
		return Firewall{Backends: []string{"firewalld"}, Events: []FirewallEvent{{What: FirewallDisplaced, By: "nft", Lost: "all", BackAfter: 0.1}}}
	}
	for field, spoil := range map[string]func(*Firewall){
		"":                            func(*Firewall) {},
		"firewall.backends":           func(f *Firewall) { f.Backends = make([]string, maxFirewallBackends+1) },
		"firewall.events":             func(f *Firewall) { f.Events = make([]FirewallEvent, maxFirewallEvents+1) },
		"firewall.events.what":        func(f *Firewall) { f.Events[0].What = "eaten" },
		"firewall.events.by":          func(f *Firewall) { f.Events[0].By = "\x1b[2J" },
		"firewall.events.lost":        func(f *Firewall) { f.Events[0].Lost = strings.Repeat("x", maxFirewallText+1) },
		"firewall.events.back_after":  func(f *Firewall) { f.Events[0].BackAfter = -1 },
		"firewall.events.back_after ": func(f *Firewall) { f.Events[0].BackAfter = math.NaN() },
	} {
		f := good()
		spoil(&f)
		err := f.check()
		field = strings.TrimSpace(field)
		if e, ok := err.(*FieldError); field == "" && err != nil || field != "" && (!ok || e.Field != field) {
			t.Errorf("%q: %v", field, err)
		}
	}
}
