// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/internal/api"
	"kohaku/internal/firewall"
	"kohaku/internal/link"
)

func TestRecycling(t *testing.T) {
	w := newWorld(t)
	w.cfg.Overlay.Subnet = conf.MustParsePlan("10.0.0.0/8/1/23")
	max := w.cfg.Overlay.Subnet.MaxRunners()
	w.mustStart()
	for i := range max {
		w.join(request("node"+string(rune('a'+i)), runnerID, netip.AddrFrom4([4]byte{192, 168, 88, byte(100 + i)})))
	}
	late := request("late", otherID, otherAddr)
	w.refused(late, 503, "No available runner IDs", "overlay-release")
	w.clock.advance(31 * time.Second)
	a := w.join(late)
	if a.RunnerID != 1 || w.remote(encap.VNI(a.VNI)) != otherAddr {
		t.Errorf("the late runner got %+v", a)
	}
	if alias, _ := link.ParseAlias(w.device("vxkr1").Alias); alias.Runner != "late" {
		t.Errorf("the device still says %q", alias.Runner)
	}
}

func TestInactivity(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	a := w.join(request("node1", runnerID, runnerAddr))
	check := func(active bool) {
		t.Helper()
		s := w.host.status()
		if got := s.Allocations[0].IsActive; got != active || s.Stats.ActiveAllocations+s.Stats.InactiveAllocations != 1 || s.Stats.ActiveAllocations == 1 != active {
			t.Errorf("is_active = %v, stats %+v; want %v", got, s.Stats, active)
		}
	}
	check(true)
	w.clock.advance(30 * time.Second)
	check(true)
	w.clock.advance(time.Millisecond)
	check(false)
	w.host.reconcile()
	if _, ok := w.plane().Tunnel(101); !ok {
		t.Error("an inactive runner lost its tunnel")
	}
	if err := w.beat(a, runnerID, runnerAddr); err != nil {
		t.Fatal(err)
	}
	check(true)
	for _, text := range []string{"runner is inactive", "runner is active"} {
		if !strings.Contains(w.log.String(), text) {
			t.Errorf("the log does not say %q", text)
		}
	}
}

func TestReleaseAndCleanup(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	a := w.join(request("node1", runnerID, runnerAddr))
	w.join(request("node2", otherID, otherAddr))
	if _, err := w.host.release("nobody"); err == nil || err.(*refusal).code != 404 {
		t.Errorf("release of nobody: %v", err)
	}
	got, err := w.host.release("node1")
	if err != nil || got != (api.ReleaseAnswer{Released: "node1", RunnerID: 1, WasActive: true}) {
		t.Errorf("release: %+v, %v", got, err)
	}
	if _, ok := w.kernel.Get("vxkr1"); ok {
		t.Error("the device stayed")
	}
	if err := w.beat(a, runnerID, runnerAddr); err == nil || err.(*refusal).code != 404 {
		t.Errorf("heartbeat after release: %v, want 404", err)
	}
	if c, err := w.host.cleanup(); err != nil || len(c.Released) != 0 {
		t.Errorf("cleanup took an active runner: %+v, %v", c, err)
	}
	w.clock.advance(time.Minute)
	if c, err := w.host.cleanup(); err != nil || !slices.Equal(c.Released, []string{"node2"}) {
		t.Errorf("cleanup: %+v, %v", c, err)
	}
	if n := len(w.plane().Remotes()); n != 0 {
		t.Errorf("%d tunnels are left", n)
	}
	// A runner that comes back is given what its own devices still carry.
	q := request("node2", otherID, otherAddr)
	q.PreviousID = 2
	if b := w.join(q); b.RunnerID != 2 {
		t.Errorf("id %d, want the previous 2", b.RunnerID)
	}
}

func TestReachableAddress(t *testing.T) {
	refusals := map[string]string{
		"127.0.0.1":    "loopback",
		"10.0.0.7":     "inside the overlay",
		"192.168.88.9": "not an address of this machine",
	}
	for addr, text := range refusals {
		w := newWorld(t)
		w.cfg.Host.ReachableAddress = netip.MustParseAddr(addr)
		if err := w.start(); err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), addr) {
			t.Errorf("reachable_address %s: %v, want %q", addr, err, text)
		}
	}
	w := newWorld(t)
	second := netip.MustParseAddr("192.168.99.53")
	w.kernel.Put(link.Info{Name: "eth1", Addrs: []netip.Prefix{netip.PrefixFrom(second, 24)}})
	w.cfg.Host.ReachableAddress = second
	w.mustStart()
	if a := w.join(request("node1", runnerID, runnerAddr)); a.HostPhysicalIP != second {
		t.Errorf("answer %+v, want the host at %s", a, second)
	}
	w.refused(request("node2", otherID, netip.MustParseAddr("2001:db8::1")), 400, "IP version")
}

func TestOverlap(t *testing.T) {
	w := newWorld(t)
	w.kernel.SetUses(link.Use{Prefix: netip.MustParsePrefix("10.4.0.0/16"), Device: "eth1", Text: "10.4.0.7/16"})
	err := w.start()
	if _, ok := errors.AsType[*link.OverlapError](err); !ok {
		t.Fatalf("error %v, want an OverlapError", err)
	}
	if _, ok := w.kernel.Get("kohaku-host"); ok || w.plane() != nil {
		t.Error("something was made before the refusal")
	}
}

func TestStatus(t *testing.T) {
	w := newWorld(t)
	w.firewall.err = firewall.ErrNoIPTables
	w.mustStart()
	empty := w.host.status()
	if !empty.Enabled || empty.Stats.MTU != 1450 || empty.Stats.AvailableIDs != 255 || len(empty.Problems) != 1 {
		t.Errorf("status before the first runner: %+v", empty)
	}
	a := w.join(request("node1", runnerID, runnerAddr))
	_, err := w.host.heartbeat("node1", api.Heartbeat{
		MachineID: runnerID, RunnerID: a.RunnerID, Address: runnerAddr, Counters: api.Counters{RxFrames: 7}, Problems: []string{"no iptables"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := w.host.status()
	got := s.Allocations[0]
	if got.Counters == nil || got.Counters.RxBytes != 64 || got.RunnerCounters == nil || got.RunnerCounters.RxFrames != 7 || got.VXLANDevice != "vxkr1" || got.LastUsed.IsZero() {
		t.Errorf("allocation %+v", got)
	}
	if s.Stats.Drops["unknown_vni"] != 1 {
		t.Errorf("drops %v", s.Stats.Drops)
	}
	if want := "runner node1 reports: no iptables"; !slices.Contains(s.Problems, want) || !slices.Contains(s.Problems, firewall.ErrNoIPTables.Error()) {
		t.Errorf("problems %q", s.Problems)
	}
}

func TestDisabled(t *testing.T) {
	w := newWorld(t)
	w.cfg.Overlay.Enabled = false
	w.host = newHost(w.cfg, w.options())
	if s := w.host.status(); s.Enabled {
		t.Errorf("status %+v", s)
	}
	w.refused(request("node1", runnerID, runnerAddr), 503, "Overlay not enabled", "enabled = true")
}

func TestRepairAfterFailure(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	w.join(request("node1", runnerID, runnerAddr))
	ctx, cancel := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() { w.host.failureLoop(ctx) })
	defer loop.Wait()
	defer cancel()

	// The first attempt fails, so that the loop has to go on by itself.
	w.machine.FailOpen("vxkr1", errors.New("made up"))
	if err := w.kernel.Delete("vxkr1"); err != nil {
		t.Fatal(err)
	}
	w.plane().Fail(101)
	eventually(t, func() bool { return len(w.host.status().Problems) > 0 })
	w.machine.FailOpen("vxkr1", nil)
	eventually(t, func() bool {
		_, ok := w.plane().Tunnel(101)
		return ok && len(w.host.status().Problems) == 0
	})
	if d := w.device("vxkr1"); !d.Up || len(d.Addrs) != 1 || d.Alias == "" {
		t.Errorf("device %+v", d)
	}
}
