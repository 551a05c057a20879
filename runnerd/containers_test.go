// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/docker"
	"kohaku/internal/link"
)

func TestDockerNetworkIsWanted(t *testing.T) {
	w := newWorld(t)
	w.cfg.Overlay.NetworkName = "lab"
	w.docker.used = []netip.Addr{netip.MustParseAddr("10.1.0.3"), netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("10.1.0.3")}
	w.startReady()
	want := docker.Network{
		Name: "lab", Bridge: "kohaku-overlay", Subnet: netip.MustParsePrefix("10.1.0.0/16"),
		Gateway: netip.MustParseAddr("10.1.0.1"), Host: netip.MustParseAddr("10.1.0.254"), MTU: 1450,
	}
	if got := w.docker.last(); got != want {
		t.Errorf("network %+v", got)
	}
	w.eventually("used addresses in a heartbeat", func() bool { return fmt.Sprint(w.host.lastBeat().UsedAddresses) == "[10.1.0.2 10.1.0.3]" })

	a := answerFor(conf.MustParsePlan("172.16.0.0/12/6/14"), 3)
	a.MTU = 1350
	w.host.set(a)
	w.eventually("the network of the new plan", func() bool {
		n := w.docker.last()
		return n.Subnet == a.Subnet && n.Gateway == a.Gateway && n.Host == a.HostOnSubnet && n.MTU == 1350
	})
	w.eventually("no addresses of the old plan", func() bool { return w.host.lastBeat().RunnerID == 3 && len(w.host.lastBeat().UsedAddresses) == 0 })
}

func TestUsedAddressesNotKnownYet(t *testing.T) {
	w := newWorld(t)
	w.startReady()
	w.eventually("a heartbeat", func() bool { return w.host.heartbeats() > 0 })
	if used := w.host.lastBeat().UsedAddresses; used != nil {
		t.Errorf("used addresses %v, before Docker said any", used)
	}
}

func TestTooManyUsedAddresses(t *testing.T) {
	w := newWorld(t)
	for a := netip.MustParseAddr("10.1.1.0"); len(w.docker.used) <= api.MaxUsedAddresses; a = a.Next() {
		w.docker.used = append(w.docker.used, a)
	}
	w.startReady()
	w.eventually("the problem", func() bool {
		b := w.host.lastBeat()
		return len(b.UsedAddresses) == api.MaxUsedAddresses && strings.Contains(strings.Join(b.Problems, "\n"), "more than 1024 containers")
	})
}

func TestDockerIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.cfg.Docker.Enabled = false
	w.startReady()
	w.eventually("a heartbeat", func() bool { return w.host.heartbeats() > 0 })
	if used := w.host.lastBeat().UsedAddresses; used == nil {
		t.Error("without Docker the Host would wait for used addresses for ever")
	}
	if n := w.docker.last(); n != (docker.Network{}) {
		t.Errorf("Docker was told of %+v", n)
	}
}

func TestDockerSettingsThatMakeNoSense(t *testing.T) {
	w := newWorld(t)
	w.cfg.Docker.Socket = "nonsense"
	w.docker = nil
	w.start()
	if err := w.fails(); !strings.Contains(err.Error(), "[docker]") {
		t.Errorf("error %v", err)
	}
}

// What has the bridge's name when the Runner starts.
func TestBridgeName(t *testing.T) {
	address := prefixes("10.1.0.1/16", "192.0.2.7/24")
	cases := map[string]struct {
		have link.Info
		fate string
	}{
		"ours":                  {link.Info{Type: "bridge", Alias: "kohaku v1 id=1"}, "kept"},
		"of another plan":       {link.Info{Type: "bridge", Alias: "kohaku v1 subnet=10.128.0.0/12/6/14 id=2", Addrs: prefixes("10.128.128.1/18")}, "kept"},
		"Docker's, from a boot": {link.Info{Type: "bridge", Up: true, Addrs: address}, "kept"},
		"ours, no bridge":       {link.Info{Type: "dummy", Alias: "kohaku v1 id=1"}, "replaced"},
		"somebody's":            {link.Info{Type: "bridge", Alias: "made by cluster-net"}, "refused"},
		"no bridge":             {link.Info{Type: "dummy"}, "refused"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.have.Name = "kohaku-overlay"
			w.kernel.Put(c.have)
			before := w.device("kohaku-overlay")
			w.start()
			if c.fate == "refused" {
				if err := w.fails(); !strings.Contains(err.Error(), "was not made by kohaku and is left alone") {
					t.Errorf("error %v", err)
				}
				if now := w.device("kohaku-overlay"); now.Alias != before.Alias || now.Index != before.Index {
					t.Errorf("it became %+v", now)
				}
				return
			}
			w.awaitReady()
			now := w.device("kohaku-overlay")
			if kept := now.Index == before.Index; kept != (c.fate == "kept") || now.Type != "bridge" {
				t.Errorf("it became %+v", now)
			}
			for _, a := range now.Addrs {
				if a != address[0] && a != address[1] {
					t.Errorf("addresses %v", now.Addrs)
				}
			}
		})
	}
}

// joinOnce registers r as a started one would, with nothing running beside it.
func joinOnce(t *testing.T, r *Runner) {
	t.Helper()
	self, err := r.self(t.Context())
	if err == nil {
		_, _, err = r.join(t.Context(), self)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A bridge that is deleted comes back with all who were in it.
func TestBridgeDeletedUnderContainers(t *testing.T) {
	w := newWorld(t)
	r := w.runner()
	joinOnce(t, r)
	bridge := w.device("kohaku-overlay")
	port := link.Info{Type: "veth", Master: bridge.Index, Up: true}
	for _, name := range []string{"veth1", "veth2", "veth3"} {
		port.Name = name
		w.kernel.Put(port)
	}
	w.kernel.Put(link.Info{Name: "other", Type: "veth", Up: true})
	if !r.reconcile(false) {
		t.Fatal(r.problems.List())
	}
	// Taken out while the bridge is there: somebody wants it so.
	out := w.device("veth3")
	out.Master = 0
	w.kernel.Put(out)
	if r.reconcile(false); w.device("veth3").Master != 0 {
		t.Error("a port that somebody took out was put back")
	}

	if err := w.kernel.Delete("kohaku-overlay"); err != nil {
		t.Fatal(err)
	}
	taken := w.device("veth2")
	taken.Master = 99
	w.kernel.Put(taken)
	if !r.reconcile(false) {
		t.Fatal(r.problems.List())
	}
	now := w.device("kohaku-overlay")
	if now.Index == bridge.Index || now.MAC.String() != bridge.MAC.String() || !now.Up || !slices.Equal(now.Addrs, bridge.Addrs) {
		t.Errorf("the bridge was %+v, is %+v", bridge, now)
	}
	for name, want := range map[string]int{"vxlan0": now.Index, "veth1": now.Index, "veth2": 99, "veth3": 0, "other": 0} {
		if m := w.device(name).Master; m != want {
			t.Errorf("%s has master %d, want %d", name, m, want)
		}
	}
	if !r.takeFresh() || r.takeFresh() {
		t.Error("settings of the new bridge would not be made, or again and again")
	}
}

// The kernel's word is enough: nothing waits for the next look at everything.
func TestChangesAreNoticed(t *testing.T) {
	w := newWorld(t)
	w.startReady()
	for name, damage := range map[string]func(){
		"bridge deleted": func() { _ = w.kernel.Delete("kohaku-overlay") },
		"device deleted": func() { _ = w.kernel.Delete("vxlan0") },
		"device down":    func() { d := w.device("vxlan0"); d.Up = false; w.kernel.Put(d) },
		"out of bridge":  func() { d := w.device("vxlan0"); d.Master = 0; w.kernel.Put(d) },
		"no address":     func() { d := w.device("kohaku-overlay"); d.Addrs = nil; w.kernel.Put(d) },
	} {
		damage()
		w.eventually(name+", healed", func() bool {
			b, ok := w.kernel.Get("kohaku-overlay")
			d, ok2 := w.kernel.Get("vxlan0")
			return ok && ok2 && b.Up && d.Up && d.Master == b.Index && len(b.Addrs) == 1 && d.Alias != "" && w.tunnelTo(101) == hostAddr
		})
	}
	if s := w.kernel.Sysctl("net/ipv6/conf/kohaku-overlay/accept_ra"); s != "0" {
		t.Errorf("accept_ra = %q", s)
	}
}

// A new address, or a path that is there at last, is told to the Host at once: the
// heartbeat is too slow to be the reason.
func TestPathIsFollowed(t *testing.T) {
	w := newWorld(t)
	slow := answerFor(plan, 1)
	slow.HeartbeatInterval = 3600
	w.host.set(slow)
	w.kernel.SetPath(netip.Addr{}, link.Path{})
	w.start()
	w.eventually("the problem", func() bool { return strings.Contains(w.log.String(), "unreachable") })
	path := link.Path{Local: ownAddr, Device: "eth0", MTU: 1500}
	w.kernel.SetPath(netip.Addr{}, path)
	w.awaitReady()

	// Down and up again is no change.
	before := strings.Count(w.log.String(), "problem=underlay")
	w.kernel.SetPath(netip.Addr{}, link.Path{})
	w.eventually("the problem", func() bool { return strings.Count(w.log.String(), "problem=underlay") > before })
	w.kernel.SetPath(netip.Addr{}, path)
	w.eventually("its end", func() bool { return strings.Contains(w.log.String(), "problem is over\" problem=underlay") })
	if n := w.host.registrations(); n != 1 {
		t.Errorf("%d registrations", n)
	}

	path.Local = netip.MustParseAddr("192.168.88.77")
	w.kernel.SetPath(netip.Addr{}, path)
	w.eventually("the new tunnel", func() bool { t, _ := w.machine.Plane().Tunnel(101); return t.Peer.Local == path.Local })
	w.host.change(func() {
		if w.host.closes == 0 {
			t.Error("connections from the old address were kept")
		}
	})
	if n := w.host.registrations(); n != 2 {
		t.Errorf("%d registrations", n)
	}
}

// A registration that hangs on the old path is given up when there is a new one.
func TestPathChangesWhileJoining(t *testing.T) {
	w := newWorld(t)
	hang := make(chan struct{})
	w.host.hang = hang
	w.start()
	<-hang
	w.host.change(func() { w.host.hang = nil })
	now := netip.MustParseAddr("192.168.88.77")
	w.kernel.SetPath(netip.Addr{}, link.Path{Local: now, Device: "eth0", MTU: 1500})
	w.awaitReady()
	if got := w.host.lastRequest().Address; got != now {
		t.Errorf("registered with %s", got)
	}
	if strings.Contains(w.log.String(), "problem=host") {
		t.Errorf("giving up was logged as a problem:\n%s", w.log)
	}
}

func TestAddressThatIsNotOurs(t *testing.T) {
	w := newWorld(t)
	w.cfg.Runner.Address = netip.MustParseAddr("192.168.99.61")
	w.startReady()
	w.eventually("the problem in a heartbeat", func() bool {
		return strings.Contains(strings.Join(w.host.lastBeat().Problems, "\n"), "192.168.99.61")
	})
}

func TestWatchThatFails(t *testing.T) {
	w := newWorld(t)
	w.kernel.Fail("Watch", errors.New("made up"))
	w.startReady()
	w.eventually("the problem in a heartbeat", func() bool { return strings.Contains(strings.Join(w.host.lastBeat().Problems, "\n"), "made up") })
}
