// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"net/netip"
	"testing"

	"kohaku/internal/api"
	"kohaku/internal/firewall"
)

// The firewall follows the tunnels, and what a Runner says of its own is shown.
func TestFirewallFollowsTunnels(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	want := firewall.Rules{Overlay: netip.MustParsePrefix("10.0.0.0/8"), Port: 4789, Trusted: []string{"kohaku-host"}}
	if got := w.host.firewallRules(); !got.Equal(want) {
		t.Errorf("without runners: %+v, want %+v", got, want)
	}
	a := w.join(request("node1", runnerID, runnerAddr))
	w.join(request("node2", otherID, otherAddr))
	select {
	case <-w.host.tunnelsChanged:
	default:
		t.Error("a new tunnel does not wake the firewall")
	}
	want.Trusted, want.Underlay = []string{"vxkr1", "vxkr2", "kohaku-host"}, []string{"eth0"}
	if got := w.host.firewallRules(); !got.Equal(want) {
		t.Errorf("with two runners: %+v, want %+v", got, want)
	}
	event := api.FirewallEvent{What: api.FirewallWiped, Lost: "all", By: "nft", BackAfter: 0.1}
	if _, err := w.host.heartbeat("node1", api.Heartbeat{
		MachineID: runnerID, RunnerID: a.RunnerID, Address: runnerAddr, Firewall: &api.Firewall{Events: []api.FirewallEvent{event}},
	}); err != nil {
		t.Fatal(err)
	}
	if f := w.allocation("node1").RunnerFirewall; f == nil || len(f.Events) != 1 || f.Events[0].By != "nft" {
		t.Errorf("the runner's firewall: %+v", f)
	}
	if f := w.host.status().Firewall; f == nil || len(f.Backends) != 1 {
		t.Errorf("the Host's firewall: %+v", f)
	}
}
