// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"kohaku/internal/api"
	"kohaku/internal/link"
)

func TestRegister(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	a := w.join(request("node1", runnerID, runnerAddr))
	want := api.RegisterAnswer{
		RunnerName: "node1", RunnerID: 1, SubnetConfig: "10.0.0.0/8/8/16", Subnet: netip.MustParsePrefix("10.1.0.0/16"),
		Gateway: netip.MustParseAddr("10.1.0.1"), HostOnSubnet: netip.MustParseAddr("10.1.0.254"), HostIP: netip.MustParseAddr("10.0.0.1"),
		HostPhysicalIP: hostAddr, VNI: 101, VXLANPort: 4789, MTU: 1450, HeartbeatInterval: 5, TimeoutFactor: 6,
	}
	if a != want {
		t.Errorf("answer %+v\nwant   %+v", a, want)
	}
	tunnel, ok := w.plane().Tunnel(101)
	if !ok || tunnel.Peer.Remote != runnerAddr || tunnel.Peer.Local != hostAddr || !slices.Equal(tunnel.Peer.Sources, []netip.Prefix{a.Subnet}) {
		t.Errorf("tunnel %+v, %v", tunnel, ok)
	}
	d := w.device("vxkr1")
	if !d.Up || d.MTU != 1450 || !slices.Equal(d.Addrs, []netip.Prefix{netip.MustParsePrefix("10.1.0.254/16")}) {
		t.Errorf("device %+v", d)
	}
	if alias, err := link.ParseAlias(d.Alias); err != nil || alias.VNI != 101 || alias.Remote != runnerAddr || alias.Runner != "node1" || alias.Machine != runnerID {
		t.Errorf("alias %q: %+v, %v", d.Alias, alias, err)
	}
	host := w.device("kohaku-host")
	if !host.Up || !slices.Equal(host.Addrs, []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}) {
		t.Errorf("device %+v", host)
	}
	if got := w.kernel.Sysctl("net/ipv4/ip_forward"); got != "1" {
		t.Errorf("ip_forward = %q", got)
	}
	if b := w.join(request("node2", otherID, otherAddr)); b.RunnerID != 2 || b.VNI != 102 {
		t.Errorf("the second runner got %+v", b)
	}
}

func TestRegisterAgainChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	first := w.join(request("node1", runnerID, runnerAddr))
	before := w.kernel.Changes()
	if again := w.join(request("node1", runnerID, runnerAddr)); again != first {
		t.Errorf("answer %+v, the first was %+v", again, first)
	}
	if n := w.kernel.Changes() - before; n != 0 {
		t.Errorf("%d changes to the machine", n)
	}
	if adds, _ := w.plane().Calls(); adds != 1 {
		t.Errorf("%d tunnels were added", adds)
	}
}

func TestNewAddressMovesTheTunnelInPlace(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	first := w.join(request("node1", runnerID, runnerAddr))
	if err := w.beat(first, runnerID, otherAddr); err == nil || err.(*refusal).code != 404 {
		t.Errorf("heartbeat from a new address: %v, want 404", err)
	}
	if again := w.join(request("node1", runnerID, otherAddr)); again.RunnerID != first.RunnerID {
		t.Errorf("another address, another id: %d", again.RunnerID)
	}
	if got := w.remote(101); got != otherAddr {
		t.Errorf("remote %s, want %s", got, otherAddr)
	}
	if adds, updates := w.plane().Calls(); adds != 1 || updates != 1 {
		t.Errorf("%d adds, %d updates", adds, updates)
	}
	if alias, _ := link.ParseAlias(w.device("vxkr1").Alias); alias.Remote != otherAddr {
		t.Errorf("alias remote %s", alias.Remote)
	}
}

func TestSecondMachineWithTheSameName(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	a := w.join(request("node1", runnerID, runnerAddr))
	w.refused(request("node1", otherID, otherAddr), 409, runnerID, otherID, "overlay-release node1")
	if got := w.remote(101); got != runnerAddr {
		t.Errorf("the first one's tunnel went to %s", got)
	}
	if err := w.beat(a, otherID, runnerAddr); err == nil || err.(*refusal).code != 409 {
		t.Errorf("heartbeat of the second machine: %v, want 409", err)
	}
	if err := w.beat(a, runnerID, runnerAddr); err != nil {
		t.Errorf("heartbeat of the first machine: %v", err)
	}
}

func TestSettingsThatDiffer(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	subnet, id, port, mtu := "10.128.0.0/12/6/14", uint32(200), uint16(8472), 1400
	cases := map[string]api.Settings{
		"subnet = 10.128.0.0/12/6/14, the Host's is 10.0.0.0/8/8/16": {Subnet: &subnet},
		"vxlan_id = 200, the Host's is 100":                          {VXLANID: &id},
		"vxlan_port = 8472, the Host's is 4789":                      {VXLANPort: &port},
		"mtu = 1400, the Host's is 1450":                             {MTU: &mtu},
	}
	for text, s := range cases {
		q := request("node1", runnerID, runnerAddr)
		q.Settings = s
		w.refused(q, 409, text)
	}
	if n := len(w.host.status().Allocations); n != 0 {
		t.Errorf("%d allocations after refusals", n)
	}
	subnet, id, port, mtu = "10.0.0.0/8/8/16", 100, 4789, 0
	q := request("node1", runnerID, runnerAddr)
	q.Settings = api.Settings{Subnet: &subnet, VXLANID: &id, VXLANPort: &port, MTU: &mtu}
	w.join(q)
}

func TestAddressesThatCannotWork(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	w.refused(request("node1", runnerID, netip.MustParseAddr("10.3.0.1")), 400, "10.3.0.1", "inside the overlay 10.0.0.0/8")
	w.refused(request("node1", runnerID, hostAddr), 400, "the Host's own address")
	loopback := request("node1", runnerID, netip.MustParseAddr("127.0.0.1"))
	if _, err := w.host.register(loopback, runnerAddr); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("a loopback address from afar: %v", err)
	}
	w.kernel.SetPath(loopback.Address, link.Path{Local: loopback.Address, Device: "lo", MTU: 65536, Own: true})
	if a := w.join(loopback); a.HostPhysicalIP != loopback.Address {
		t.Errorf("a runner on loopback got %+v", a)
	}
	w.kernel.SetPath(otherAddr, link.Path{})
	w.refused(request("node2", otherID, otherAddr), 400, otherAddr.String(), "unreachable")
}

func TestMTU(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::61")
	cases := []struct {
		name              string
		addr              netip.Addr
		configured        int
		underlay, runners int
		want              int
		problem           string
	}{
		{"plain", runnerAddr, 0, 1500, 0, 1450, ""},
		{"IPv6", v6, 0, 1500, 0, 1430, ""},
		{"jumbo", runnerAddr, 0, 9000, 9000, 8950, ""},
		{"the runner's underlay is smaller", runnerAddr, 0, 1500, 1400, 1350, ""},
		{"configured", runnerAddr, 1400, 1500, 0, 1400, ""},
		{"configured too large", runnerAddr, 1450, 1400, 0, 1450, "mtu = 1350"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.cfg.Overlay.MTU = c.configured
			local := hostAddr
			if c.addr.Is6() {
				local = netip.MustParseAddr("2001:db8::53")
			}
			w.kernel.SetPath(c.addr, link.Path{Local: local, Device: "eth0", MTU: c.underlay})
			w.mustStart()
			q := request("node1", runnerID, c.addr)
			q.UnderlayMTU = c.runners
			if a := w.join(q); a.MTU != c.want || a.HostPhysicalIP != local {
				t.Errorf("answer %+v, want MTU %d from %s", a, c.want, local)
			}
			if got := w.device("vxkr1").MTU; got != c.want {
				t.Errorf("device MTU %d, want %d", got, c.want)
			}
			problems := strings.Join(w.host.status().Problems, "\n")
			if (c.problem == "") != (problems == "") || !strings.Contains(problems, c.problem) {
				t.Errorf("problems %q, want %q", problems, c.problem)
			}
		})
	}
}

func TestMTUFollowsTheUnderlay(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	w.join(request("node1", runnerID, runnerAddr))
	w.kernel.SetPath(netip.Addr{}, link.Path{Local: hostAddr, Device: "eth0", MTU: 1400})
	w.host.reconcile()
	if got := w.device("vxkr1").MTU; got != 1350 {
		t.Errorf("device MTU %d, want 1350", got)
	}
	if got := w.allocation("node1").MTU; got != 1350 {
		t.Errorf("status MTU %d, want 1350", got)
	}
}

func TestUnderlayTooSmall(t *testing.T) {
	w := newWorld(t)
	w.kernel.SetPath(netip.Addr{}, link.Path{Local: hostAddr, Device: "eth0", MTU: 600})
	w.mustStart()
	w.refused(request("node1", runnerID, runnerAddr), 400, "underlay MTU 600")
}

func TestBuildFailureLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	w.kernel.Fail("EnsureUp vxkr1", errors.New("made up"))
	w.refused(request("node1", runnerID, runnerAddr), 500, "made up", "vxkr1")
	if _, ok := w.kernel.Get("vxkr1"); ok {
		t.Error("the device stayed")
	}
	if s := w.host.status(); len(s.Allocations) != 0 || s.Stats.AvailableIDs != 255 {
		t.Errorf("status %+v", s)
	}
	w.kernel.Fail("EnsureUp vxkr1", nil)
	w.plane().Refuse(errors.New("made up too"))
	w.refused(request("node1", runnerID, runnerAddr), 500, "made up too")
	w.plane().Refuse(nil)
	if a := w.join(request("node1", runnerID, runnerAddr)); a.RunnerID != 1 {
		t.Errorf("id %d", a.RunnerID)
	}
}

// A route to the runner that leads into the overlay would send the tunnel through
// itself.
func TestRefusesCircularRoute(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	w.kernel.SetPath(runnerAddr, link.Path{Local: hostAddr, Device: "vxkr2", MTU: 1450})
	w.refused(request("node1", runnerID, runnerAddr), 400, "leads into the overlay (by vxkr2)")
	w.kernel.SetPath(runnerAddr, link.Path{Local: hostAddr, Device: "eth0", MTU: 1500})
	w.join(request("node1", runnerID, runnerAddr))
}
