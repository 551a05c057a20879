// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/firewall"
	"kohaku/internal/link"
)

func TestJoin(t *testing.T) {
	w := newWorld(t)
	w.startReady()
	bridge, tunnel := w.device("kohaku-overlay"), w.device("vxlan0")
	if !bridge.Up || bridge.MTU != 1450 || !slices.Equal(bridge.Addrs, prefixes("10.1.0.1/16")) || bridge.Type != "bridge" {
		t.Errorf("bridge %+v", bridge)
	}
	if !tunnel.Up || tunnel.MTU != 1450 || tunnel.Master != bridge.Index || len(tunnel.Addrs) != 0 {
		t.Errorf("tunnel device %+v", tunnel)
	}
	if a, err := link.ParseAlias(tunnel.Alias); err != nil || a.VNI != 101 || a.Remote != hostAddr || a.ID != 1 || a.Subnet != plan || a.Runner != "node1" {
		t.Errorf("alias %q", tunnel.Alias)
	}
	if got := w.kernel.Route("kohaku-overlay"); got != "10.0.0.0/8 via 10.1.0.254" {
		t.Errorf("route %q", got)
	}
	wire, ok := w.machine.Plane().Tunnel(101)
	if !ok || wire.Peer.Remote != hostAddr || wire.Peer.Local != ownAddr || wire.Peer.Sources != nil {
		t.Errorf("tunnel %+v, %v", wire, ok)
	}
	for path, want := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/send_redirects": "0", "net/ipv4/conf/kohaku-overlay/send_redirects": "0",
		"net/ipv6/conf/kohaku-overlay/accept_ra": "0", "net/ipv6/conf/vxlan0/disable_ipv6": "1",
	} {
		if got := w.kernel.Sysctl(path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	want := firewall.Rules{
		Overlay: plan.Overlay(), Masquerade: true, Port: 4789, Peer: hostAddr,
		Trusted: []string{"kohaku-overlay", "vxlan0"}, Underlay: []string{"eth0"},
	}
	if got := w.firewall.current(); !got.Equal(want) {
		t.Errorf("firewall %+v", got)
	}
	q := w.host.lastRequest()
	if q.Hostname != "node1" || q.MachineID != machineID || q.Address != ownAddr || q.UnderlayMTU != 1500 || q.PreviousID != 0 || q.Version != "v0" {
		t.Errorf("request %+v", q)
	}
	w.eventually("a heartbeat", func() bool { return w.host.heartbeats() > 1 })
	b := w.host.lastBeat()
	if b.MachineID != machineID || b.RunnerID != 1 || b.Address != ownAddr || b.Counters.RxBytes != 64 || b.Counters.Drops["unknown_vni"] != 1 || len(b.Problems) != 0 {
		t.Errorf("heartbeat %+v", b)
	}
	if n := w.host.registrations(); n != 1 {
		t.Errorf("%d registrations", n)
	}
}

func TestOwnSettingsAreSent(t *testing.T) {
	w := newWorld(t)
	id, port, mtu := uint32(100), uint16(4789), 1450
	w.cfg.Overlay.Subnet, w.cfg.Overlay.VXLANID, w.cfg.Overlay.VXLANPort, w.cfg.Overlay.MTU = &plan, &id, &port, &mtu
	w.cfg.Runner.Address = netip.MustParseAddr("192.168.99.61")
	w.cfg.Engine.AntiSpoof = true
	w.startReady()
	q := w.host.lastRequest()
	if *q.Settings.Subnet != plan.String() || *q.Settings.VXLANID != id || *q.Settings.VXLANPort != port || *q.Settings.MTU != mtu || q.Address != w.cfg.Runner.Address {
		t.Errorf("request %+v", q)
	}
	wire, _ := w.machine.Plane().Tunnel(101)
	if wire.Peer.Local != w.cfg.Runner.Address || !slices.Equal(wire.Peer.Sources, []netip.Prefix{plan.Overlay()}) {
		t.Errorf("tunnel %+v", wire)
	}
}

func TestRefusedUntilTheHostAgrees(t *testing.T) {
	w := newWorld(t)
	w.host.refuse = refusal(http.StatusConflict, "the name is taken")
	w.start()
	w.eventually("a third try", func() bool { return w.host.registrations() >= 3 })
	if n := strings.Count(w.log.String(), "the name is taken"); n != 1 {
		t.Errorf("the same refusal was logged %d times", n)
	}
	if _, ok := w.kernel.Get("kohaku-overlay"); ok {
		t.Error("devices were made without the Host's word")
	}
	w.host.change(func() { w.host.refuse = nil })
	w.awaitReady()
}

func TestAnswersThatMakeNoSense(t *testing.T) {
	good := answerFor(plan, 1)
	cases := map[string]func(*api.RegisterAnswer){
		"subnet_config":      func(a *api.RegisterAnswer) { a.SubnetConfig = "10.0.0.0/8" },
		"runner_id":          func(a *api.RegisterAnswer) { a.RunnerID = 256 },
		"subnet":             func(a *api.RegisterAnswer) { a.Subnet = plan.Subnet(2) },
		"gateway":            func(a *api.RegisterAnswer) { a.Gateway = plan.Gateway(2) },
		"host_on_subnet":     func(a *api.RegisterAnswer) { a.HostOnSubnet = netip.Addr{} },
		"vni":                func(a *api.RegisterAnswer) { a.VNI = 1 << 24 },
		"vxlan_port":         func(a *api.RegisterAnswer) { a.VXLANPort = 0 },
		"mtu":                func(a *api.RegisterAnswer) { a.MTU = 100 },
		"host_physical_ip":   func(a *api.RegisterAnswer) { a.HostPhysicalIP = netip.MustParseAddr("10.2.0.1") },
		"heartbeat_interval": func(a *api.RegisterAnswer) { a.HeartbeatInterval = 0 },
	}
	if _, err := shapeOf(good, ownAddr); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range cases {
		a := good
		spoil(&a)
		if _, err := shapeOf(a, ownAddr); err == nil || !strings.Contains(err.Error(), field+" = ") {
			t.Errorf("%s: error %v", field, err)
		}
	}
}

func TestRegisterAgain(t *testing.T) {
	cases := map[string]func(w *world){
		"the Host asks for it": func(w *world) {
			w.host.change(func() { w.host.beatError = refusal(http.StatusNotFound, "who?") })
			w.eventually("a registration", func() bool { return w.host.registrations() >= 2 })
			w.host.change(func() { w.host.beatError = nil })
		},
		"the MTU has changed": func(w *world) {
			a := answerFor(plan, 1)
			a.MTU = 1350
			w.host.set(a)
			w.eventually("the MTU", func() bool { return w.device("vxlan0").MTU == 1350 && w.device("kohaku-overlay").MTU == 1350 })
		},
		"the Host has moved": func(w *world) {
			a := answerFor(plan, 1)
			a.HostPhysicalIP = netip.MustParseAddr("192.168.88.99")
			w.host.set(a)
			w.eventually("the tunnel", func() bool { return w.tunnelTo(101) == a.HostPhysicalIP })
			if adds, _ := w.machine.Plane().Calls(); adds != 1 {
				w.t.Errorf("the tunnel was made %d times instead of being updated", adds)
			}
		},
		"own address has changed": func(w *world) {
			now := netip.MustParseAddr("192.168.88.77")
			w.kernel.SetPath(netip.Addr{}, link.Path{Local: now, Device: "eth0", MTU: 1500})
			w.eventually("the tunnel", func() bool { t, _ := w.machine.Plane().Tunnel(101); return t.Peer.Local == now })
			if w.host.lastRequest().Address != now {
				w.t.Errorf("request %+v", w.host.lastRequest())
			}
			w.host.change(func() {
				if w.host.closes == 0 {
					w.t.Error("connections from the old address were kept")
				}
			})
		},
	}
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.startReady()
			run(w)
			w.eventually("a second registration", func() bool { return w.host.registrations() >= 2 })
			if w.host.lastRequest().PreviousID != 1 {
				t.Errorf("request %+v does not tell the id", w.host.lastRequest())
			}
			n := w.host.heartbeats()
			w.eventually("heartbeats after it", func() bool { return w.host.heartbeats() > n })
		})
	}
}

func TestSubnetHasChanged(t *testing.T) {
	w := newWorld(t)
	w.startReady()
	foreign := netip.MustParsePrefix("192.0.2.1/24")
	if _, err := w.kernel.EnsureAddrs("kohaku-overlay", []netip.Prefix{foreign}, nil); err != nil {
		t.Fatal(err)
	}
	other := conf.MustParsePlan("172.16.0.0/12/6/14")
	a := answerFor(other, 3)
	a.VXLANPort = 8472
	w.host.set(a)
	w.eventually("the new tunnel", func() bool { return w.tunnelTo(103) == hostAddr })
	w.eventually("the new route", func() bool {
		return w.kernel.Route("kohaku-overlay") == fmt.Sprintf("%s via %s", other.Overlay(), other.HostOn(3))
	})
	want := []netip.Prefix{foreign, netip.PrefixFrom(other.Gateway(3), 18)}
	if got := w.device("kohaku-overlay").Addrs; !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	if w.machine.Plane().Port != 8472 {
		t.Errorf("UDP port %d", w.machine.Plane().Port)
	}
	if !strings.Contains(w.log.String(), "subnet of this Runner has changed") {
		t.Errorf("the log does not say so:\n%s", w.log)
	}
}

func TestHostDown(t *testing.T) {
	w := newWorld(t)
	w.startReady()
	down := &api.CallError{Op: "send a heartbeat", URL: "http://test", Err: syscall.ECONNREFUSED}
	w.host.change(func() { w.host.beatError = down })
	n := w.host.heartbeats()
	w.eventually("tries", func() bool { return w.host.heartbeats() > n+3 })
	if w.tunnelTo(101) != hostAddr || w.host.registrations() != 1 {
		t.Error("the tunnel did not outlive the Host")
	}
	w.host.change(func() { w.host.beatError = nil })
	w.eventually("the end of the problem", func() bool { return strings.Contains(w.log.String(), "problem is over") })
	if c := strings.Count(w.log.String(), "level=WARN"); c != 1 {
		t.Errorf("%d warnings, want one:\n%s", c, w.log)
	}
}
