// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kohaku/internal/api"
)

func TestFirewallLines(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 3, 4, 14, 2, s, 0, time.Local) }
	host := &api.Firewall{Backends: []string{"iptables-nft"}}
	for i := range 5 {
		host.Events = append(host.Events, api.FirewallEvent{When: at(i), What: api.FirewallWiped, Lost: "iptables-nft FORWARD", By: "nft", BackAfter: 0.0796})
	}
	s := api.Status{Firewall: host, Allocations: []api.Allocation{
		{RunnerName: "a"},
		{RunnerName: "b", RunnerFirewall: &api.Firewall{Events: []api.FirewallEvent{
			{When: at(10), What: api.FirewallDisplaced, Lost: "x\x1b[2J", BackAfter: 2.5, AtMost: true},
			{When: at(11), What: api.FirewallWiped, Lost: "y", BackAfter: 61},
		}}},
	}}
	want := []string{
		"Host: rules wiped 14:02:02 by nft, back after 80 ms (iptables-nft FORWARD)",
		"Host: rules wiped 14:02:03 by nft, back after 80 ms (iptables-nft FORWARD)",
		"Host: rules wiped 14:02:04 by nft, back after 80 ms (iptables-nft FORWARD)",
		"b: rules displaced 14:02:10, back within 2500 ms (x [2J)",
		"b: rules wiped 14:02:11, back after 61 s (y)",
	}
	if diff := cmp.Diff(want, firewallLines(s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := verdict(api.Status{Enabled: true, Firewall: host}); err != nil {
		t.Errorf("what was healed counts as trouble: %v", err)
	}
}
