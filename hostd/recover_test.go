// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
	"kohaku/tun"
)

// leftover is a tunnel device as an earlier run leaves it.
func leftover(id int, name string, remote netip.Addr) link.Info {
	plan := conf.DefaultHost().Overlay.Subnet
	if id > plan.MaxRunners() {
		plan = conf.MustParsePlan("10.0.0.0/8/12/12")
	}
	alias := link.Alias{VNI: uint32(100 + id), Remote: remote, Runner: name, Machine: runnerID, Subnet: plan, ID: id, Port: 4789}
	return link.Info{
		Name: conf.HostDevice(id), Type: "tap", MTU: 1450, Up: true, Alias: alias.String(),
		Addrs: []netip.Prefix{netip.PrefixFrom(plan.HostOn(id), plan.Subnet(id).Bits())},
	}
}

func TestRecovery(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	w.join(request("node1", runnerID, runnerAddr))
	second := w.join(request("node2", otherID, otherAddr))
	before := w.host.status()
	w.kill()

	changes := w.kernel.Changes()
	w.mustStart()
	// The fake counts the opening of a TAP as a change; there are two.
	if n := w.kernel.Changes() - changes; n != 2 {
		t.Errorf("a restart changed the machine %d times, want 2", n)
	}
	if got := w.plane().Remotes(); len(got) != 2 || got[101] != runnerAddr || got[102] != otherAddr {
		t.Errorf("tunnels after the restart: %v", got)
	}
	after := w.host.status()
	for i, a := range after.Allocations {
		b := before.Allocations[i]
		if a.IsActive || !a.LastUsed.IsZero() {
			t.Errorf("%s is active before its first heartbeat", a.RunnerName)
		}
		if a.RunnerName != b.RunnerName || a.RunnerID != b.RunnerID || a.PhysicalIP != b.PhysicalIP || a.VNI != b.VNI ||
			a.MTU != b.MTU || a.MachineID != b.MachineID || a.HostPhysicalIP != b.HostPhysicalIP {
			t.Errorf("after the restart %+v\nbefore it      %+v", a, b)
		}
	}
	if err := w.beat(second, otherID, otherAddr); err != nil {
		t.Errorf("heartbeat after the restart: %v", err)
	}
	if !w.allocation("node2").IsActive {
		t.Error("a heartbeat does not make the runner active")
	}
	w.refused(request("node1", otherID, otherAddr), 409, runnerID, otherID)
	if a := w.join(request("node3", otherID, netip.MustParseAddr("192.168.88.63"))); a.RunnerID != 3 {
		t.Errorf("a new runner got id %d", a.RunnerID)
	}
}

func TestCleanupWaitsForRecoveredRunners(t *testing.T) {
	w := newWorld(t)
	w.kernel.Put(leftover(1, "node1", runnerAddr))
	w.mustStart()
	if c, err := w.host.cleanup(); err != nil || len(c.Released) != 0 || !slices.Equal(c.Kept, []string{"node1"}) {
		t.Errorf("cleanup right after the start: %+v, %v", c, err)
	}
	w.clock.advance(time.Minute)
	if c, err := w.host.cleanup(); err != nil || !slices.Equal(c.Released, []string{"node1"}) {
		t.Errorf("cleanup later: %+v, %v", c, err)
	}
}

func TestRecoveryOfWhatCannotBeUsed(t *testing.T) {
	good := leftover(1, "node1", runnerAddr)
	change := func(f func(*link.Info)) link.Info {
		d := good
		f(&d)
		return d
	}
	twin := leftover(2, "node1", otherAddr)
	cases := []struct {
		name string
		d    link.Info
		says string
	}{
		{"corrupt alias", change(func(d *link.Info) { d.Alias = "kohaku v1 vni=1 nonsense" }), "nonsense"},
		{"alias of a later version", change(func(d *link.Info) { d.Alias = "kohaku v9" }), "kohaku v9"},
		{"alias of another device", change(func(d *link.Info) { d.Name = "vxkr5" }), "runner id 1"},
		{"alias without a runner", change(func(d *link.Info) { d.Alias = "kohaku v1 id=1" }), "names no runner"},
		{"wrong type", change(func(d *link.Info) { d.Type = "bridge" }), "type bridge"},
		{"never finished", link.Info{Name: "vxkr1", Type: "tap", MTU: 1500}, "never finished"},
		{"id of a larger plan", leftover(256, "node1", runnerAddr), "outside 1..255"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.kernel.Put(c.d)
			w.mustStart()
			if _, ok := w.kernel.Get(c.d.Name); ok {
				t.Error("the device stayed")
			}
			if !strings.Contains(w.log.String(), c.says) || !strings.Contains(w.log.String(), c.d.Name) {
				t.Errorf("the log %q does not say %q", w.log, c.says)
			}
			if a := w.join(request("node1", runnerID, runnerAddr)); a.RunnerID != 1 {
				t.Errorf("id %d", a.RunnerID)
			}
		})
	}
	w := newWorld(t)
	w.kernel.Put(good)
	w.kernel.Put(twin)
	w.mustStart()
	if got := w.plane().Remotes(); len(got) != 1 || got[101] != runnerAddr {
		t.Errorf("of two devices of one runner these tunnels came: %v", got)
	}
}

func TestForeignDevicesAreLeftAlone(t *testing.T) {
	foreign := []link.Info{
		{Name: "vxkr1", Type: "vxlan", MTU: 1450, Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.254/16")}},
		{Name: "vxkr2", Type: "tap", MTU: 1500, Alias: "of the lab's VM"},
		{Name: "vxkr3", Type: "tap", MTU: 1500, Up: true},
	}
	w := newWorld(t)
	for _, d := range foreign {
		w.kernel.Put(d)
	}
	w.mustStart()
	s := w.host.status()
	for _, d := range foreign {
		now := w.device(d.Name)
		now.Index = 0
		if now.Alias != d.Alias || now.Up != d.Up || now.Type != d.Type || now.MTU != d.MTU {
			t.Errorf("%s became %+v", d.Name, now)
		}
		if !strings.Contains(strings.Join(s.Problems, "\n"), d.Name) {
			t.Errorf("problems %q do not name %s", s.Problems, d.Name)
		}
	}
	if s.Stats.AvailableIDs != 252 {
		t.Errorf("%d ids available, want 252", s.Stats.AvailableIDs)
	}
	if a := w.join(request("node1", runnerID, runnerAddr)); a.RunnerID != 4 {
		t.Errorf("id %d, want the first whose device name is free", a.RunnerID)
	}
	if err := w.kernel.Delete("vxkr1"); err != nil {
		t.Fatal(err)
	}
	w.host.reconcile()
	if a := w.join(request("node2", otherID, otherAddr)); a.RunnerID != 1 {
		t.Errorf("id %d after the foreign device is gone", a.RunnerID)
	}
}

func TestRecoveryUnderOtherSettings(t *testing.T) {
	w := newWorld(t)
	w.kernel.Put(leftover(3, "node3", runnerAddr))
	w.cfg.Overlay.VXLANID = 500
	w.cfg.Overlay.VXLANPort = 8472
	w.cfg.Overlay.Subnet = conf.MustParsePlan("10.128.0.0/12/6/14")
	w.mustStart()
	if got := w.remote(503); got != runnerAddr {
		t.Errorf("remote %s", got)
	}
	d := w.device("vxkr3")
	if want := netip.MustParsePrefix("10.128.192.254/18"); !slices.Equal(d.Addrs, []netip.Prefix{want}) {
		t.Errorf("addresses %v, want only %v", d.Addrs, want)
	}
	if alias, err := link.ParseAlias(d.Alias); err != nil || alias.VNI != 503 || alias.Port != 8472 || alias.Subnet != w.cfg.Overlay.Subnet {
		t.Errorf("alias %q", d.Alias)
	}
}

func TestRecoveryWithoutTheUnderlay(t *testing.T) {
	w := newWorld(t)
	w.kernel.Put(leftover(1, "node1", runnerAddr))
	w.kernel.SetPath(netip.Addr{}, link.Path{})
	w.mustStart()
	if got := w.remote(101); got != runnerAddr {
		t.Errorf("remote %s", got)
	}
	if s := w.host.status(); len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "node1") || s.Allocations[0].MTU != 1450 {
		t.Errorf("status %+v", s)
	}
	w.kernel.SetPath(netip.Addr{}, link.Path{Local: hostAddr, Device: "eth0", MTU: 1500})
	w.host.reconcile()
	if s := w.host.status(); len(s.Problems) != 0 || s.Allocations[0].HostPhysicalIP != hostAddr {
		t.Errorf("status once there is a route: %+v", s)
	}
	if tunnel, _ := w.plane().Tunnel(101); tunnel.Peer.Local != hostAddr {
		t.Errorf("the tunnel leaves from %s", tunnel.Peer.Local)
	}
}

func TestRecoveryReopensWhatItCannotTakeOver(t *testing.T) {
	w := newWorld(t)
	d := leftover(1, "node1", runnerAddr)
	w.kernel.Put(d)
	w.mustStart()
	w.kill()
	before := w.device("vxkr1").Index
	for _, failure := range []error{errors.New("too many open files"), fmt.Errorf("other flags: %w", tun.ErrNotTAP)} {
		if got := w.device("vxkr1"); got.Alias == "" {
			t.Errorf("device %+v has lost its memory for an error that may pass", got)
		}
		w.machine.FailOpen("vxkr1", failure)
		w.mustStart()
		if p := strings.Join(w.host.status().Problems, ""); !strings.Contains(p, failure.Error()) {
			t.Errorf("problems %q, want %q", p, failure)
		}
		if failure.Error() == "too many open files" {
			w.kill()
		}
	}
	w.machine.FailOpen("vxkr1", nil)
	w.host.reconcile()
	if got := w.device("vxkr1"); got.Index == before || got.Alias == "" {
		t.Errorf("device %+v, want a new one", got)
	}
	if got := w.remote(101); got != runnerAddr {
		t.Errorf("remote %s", got)
	}
}

// Whatever somebody does to our devices by hand, one reconciliation puts it right.
func TestReconcile(t *testing.T) {
	cases := map[string]func(k *linktest.Fake){
		"nothing":           func(*linktest.Fake) {},
		"device deleted":    func(k *linktest.Fake) { _ = k.Delete("vxkr1") },
		"device down":       func(k *linktest.Fake) { d, _ := k.Get("vxkr1"); d.Up = false; k.Put(d) },
		"other MTU":         func(k *linktest.Fake) { d, _ := k.Get("vxkr1"); d.MTU = 9000; k.Put(d) },
		"other alias":       func(k *linktest.Fake) { d, _ := k.Get("vxkr1"); d.Alias = "x"; k.Put(d) },
		"no address":        func(k *linktest.Fake) { d, _ := k.Get("vxkr1"); d.Addrs = nil; k.Put(d) },
		"host device gone":  func(k *linktest.Fake) { _ = k.Delete("kohaku-host") },
		"forwarding is off": func(k *linktest.Fake) { _, _ = k.EnsureSysctl("net/ipv4/ip_forward", "0") },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mustStart()
			w.join(request("node1", runnerID, runnerAddr))
			want, wantHost := w.device("vxkr1"), w.device("kohaku-host")
			damage(w.kernel)
			w.host.reconcile()
			got, gotHost := w.device("vxkr1"), w.device("kohaku-host")
			for _, d := range []*link.Info{&want, &wantHost, &got, &gotHost} {
				d.Index = 0
			}
			if !same(got, want) || !same(gotHost, wantHost) {
				t.Errorf("after reconcile:\n%+v\n%+v\nwant\n%+v\n%+v", got, gotHost, want, wantHost)
			}
			if w.kernel.Sysctl("net/ipv4/ip_forward") != "1" {
				t.Error("forwarding is off")
			}
			if got := w.plane().Remotes(); got[encap.VNI(101)] != runnerAddr {
				t.Errorf("tunnels %v", got)
			}
			changes := w.kernel.Changes()
			w.host.reconcile()
			if n := w.kernel.Changes() - changes; n != 0 {
				t.Errorf("a second reconcile changed %d things", n)
			}
		})
	}
}

func TestReconcileBesideRegistrations(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	joined := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-joined:
				return
			default:
				w.host.reconcile()
			}
		}
	})
	for i := range 255 {
		w.join(request(fmt.Sprint("node", i), runnerID, netip.AddrFrom4([4]byte{192, 168, 1, byte(i)})))
	}
	close(joined)
	group.Wait()
	if n := strings.Count(w.log.String(), "made anew"); n != 0 {
		t.Errorf("%d new devices were taken for dead ones", n)
	}
}

func same(a, b link.Info) bool {
	return a.Name == b.Name && a.Type == b.Type && a.Alias == b.Alias && a.MTU == b.MTU && a.Up == b.Up &&
		a.MAC.String() == b.MAC.String() && slices.Equal(a.Addrs, b.Addrs)
}
