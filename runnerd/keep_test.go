// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"kohaku/internal/api"
	"kohaku/internal/firewall"
	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
)

func TestTakeOverWhileTheHostIsDown(t *testing.T) {
	w := newWorld(t)
	w.startReady()
	before := w.device("vxlan0")
	w.end()
	w.host.change(func() { w.host.refuse = &api.CallError{Op: "register", URL: "http://test", Err: syscall.ECONNREFUSED} })
	registrations := w.host.registrations()

	w.startReady()
	if after := w.device("vxlan0"); after.Alias != before.Alias || after.Master != before.Master {
		t.Errorf("after %+v, before %+v", after, before)
	}
	wire, ok := w.machine.Plane().Tunnel(101)
	if !ok || wire.Peer.Remote != hostAddr || wire.Peer.Local != ownAddr {
		t.Errorf("tunnel %+v, %v", wire, ok)
	}
	w.eventually("tries", func() bool { return w.host.registrations() > registrations+1 })
	if got := w.host.lastRequest().PreviousID; got != 1 {
		t.Errorf("previous id %d", got)
	}
	w.host.change(func() { w.host.refuse = nil })
	n := w.host.heartbeats()
	w.eventually("heartbeats", func() bool { return w.host.heartbeats() > n })
	if adds, _ := w.machine.Plane().Calls(); adds != 1 {
		t.Errorf("the tunnel was made %d times", adds)
	}
}

func TestTakeOverNeedsAWholeAlias(t *testing.T) {
	for _, alias := range []string{"kohaku v1", "kohaku nonsense", "kohaku v1 vni=101 remote=192.168.88.53 runner=node1 id=1"} {
		w := newWorld(t)
		w.kernel.Put(link.Info{Name: "vxlan0", Type: "tap", MTU: 1450, Alias: alias})
		w.startReady()
		if w.tunnelTo(101) != hostAddr || !strings.Contains(w.log.String(), "tells nothing usable") {
			t.Errorf("alias %q: tunnel to %s, log:\n%s", alias, w.tunnelTo(101), w.log)
		}
		w.end()
	}
}

func TestForeignTunnelDevice(t *testing.T) {
	w := newWorld(t)
	foreign := link.Info{Name: "vxlan0", Type: "vxlan", MTU: 1450, Up: true}
	w.kernel.Put(foreign)
	w.start()
	err := w.fails()
	if _, ok := errors.AsType[*link.ForeignError](err); !ok || !strings.Contains(err.Error(), "ip link delete vxlan0") {
		t.Errorf("error %v", err)
	}
	if d := w.device("vxlan0"); d.Type != "vxlan" || d.Alias != "" {
		t.Errorf("the foreign device became %+v", d)
	}
}

func TestErrorsThatWaitingDoesNotCure(t *testing.T) {
	cases := map[string]struct {
		arrange func(w *world)
		check   func(err error) bool
	}{
		"overlap": {
			func(w *world) {
				w.kernel.SetUses(link.Use{Prefix: netip.MustParsePrefix("10.9.0.0/16"), Device: "eth1", Text: "10.9.0.1/16"})
			},
			func(err error) bool {
				overlap, ok := errors.AsType[*link.OverlapError](err)
				return ok && overlap.Fits && strings.Contains(err.Error(), "10.9.0.1/16")
			},
		},
		"not root": {
			func(w *world) { w.kernel.Fail("EnsureBridge kohaku-overlay", syscall.EPERM) },
			func(err error) bool { return strings.Contains(err.Error(), "run as root") },
		},
		"port taken": {
			func(w *world) { w.machine.FailPlane(fmt.Errorf("held by kernel VXLAN: %w", syscall.EADDRINUSE)) },
			func(err error) bool {
				return strings.Contains(err.Error(), "UDP port 4789") && strings.Contains(err.Error(), "held by kernel VXLAN")
			},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.arrange(w)
			w.start()
			if err := w.fails(); !c.check(err) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestErrorsThatMayPass(t *testing.T) {
	w := newWorld(t)
	w.kernel.SetPath(netip.Addr{}, link.Path{})
	w.start()
	w.eventually("the problem", func() bool { return strings.Contains(w.log.String(), "unreachable") })
	w.kernel.Fail("EnsureUp vxlan0", errors.New("made up"))
	w.kernel.SetPath(netip.Addr{}, link.Path{Local: ownAddr, Device: "eth0", MTU: 1500})
	w.eventually("the next problem", func() bool { return strings.Contains(w.log.String(), "made up") })
	w.kernel.Fail("EnsureUp vxlan0", nil)
	w.awaitReady()
}

func TestRepairAfterFailure(t *testing.T) {
	w := newWorld(t)
	w.firewall.err = firewall.ErrNoIPTables
	w.startReady()
	w.machine.FailOpen("vxlan0", errors.New("made up"))
	if err := w.kernel.Delete("vxlan0"); err != nil {
		t.Fatal(err)
	}
	w.machine.Plane().Fail(101)
	w.eventually("the problem in a heartbeat", func() bool {
		p := strings.Join(w.host.lastBeat().Problems, "\n")
		return strings.Contains(p, "made up") && strings.Contains(p, firewall.ErrNoIPTables.Error())
	})
	w.machine.FailOpen("vxlan0", nil)
	w.eventually("the tunnel", func() bool { return w.tunnelTo(101) == hostAddr })
	w.eventually("its device", func() bool {
		d, _ := w.kernel.Get("vxlan0")
		return d.Up && d.Master == w.device("kohaku-overlay").Index && d.Alias != ""
	})
}

func TestReconcile(t *testing.T) {
	cases := map[string]func(k *linktest.Fake){
		"nothing":         func(*linktest.Fake) {},
		"bridge deleted":  func(k *linktest.Fake) { _ = k.Delete("kohaku-overlay") },
		"device deleted":  func(k *linktest.Fake) { _ = k.Delete("vxlan0") },
		"out of bridge":   func(k *linktest.Fake) { d, _ := k.Get("vxlan0"); d.Master = 0; k.Put(d) },
		"device down":     func(k *linktest.Fake) { d, _ := k.Get("vxlan0"); d.Up = false; k.Put(d) },
		"address removed": func(k *linktest.Fake) { d, _ := k.Get("kohaku-overlay"); d.Addrs = nil; k.Put(d) },
		"other MTU":       func(k *linktest.Fake) { d, _ := k.Get("kohaku-overlay"); d.MTU = 1500; k.Put(d) },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			opts, err := Options{Log: slog.New(slog.NewTextHandler(w.log, nil)), Links: w.kernel, Firewall: w.firewall,
				Machine: w.machine, Host: w.host, MachineID: machineID}.withDefaults(w.cfg)
			if err != nil {
				t.Fatal(err)
			}
			r := newRunner(w.cfg, "node1", opts)
			defer r.closeWire()
			joinOnce(t, r)
			damage(w.kernel)
			if !r.reconcile(false) {
				t.Fatalf("reconcile: %q", r.problems.List())
			}
			bridge, tunnel := w.device("kohaku-overlay"), w.device("vxlan0")
			if !bridge.Up || !tunnel.Up || tunnel.Master != bridge.Index || bridge.MTU != 1450 || !slices.Equal(bridge.Addrs, prefixes("10.1.0.1/16")) ||
				w.kernel.Route("kohaku-overlay") != "10.0.0.0/8 via 10.1.0.254" || w.tunnelTo(101) != hostAddr || tunnel.Alias == "" {
				t.Errorf("bridge %+v\ntunnel %+v", bridge, tunnel)
			}
			changes := w.kernel.Changes()
			if r.reconcile(false); w.kernel.Changes() != changes {
				t.Error("a second reconcile changed something")
			}
		})
	}
}

func TestDisabled(t *testing.T) {
	w := newWorld(t)
	w.cfg.Overlay.Enabled = false
	w.startReady()
	if w.host.registrations() != 0 || w.kernel.Changes() != 0 {
		t.Error("something was done")
	}
}
