// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/internal/link"
)

// Two machines with one name register at the same time: one is in, whole, and the
// other is refused and leaves nothing.
func TestTwoMachinesRace(t *testing.T) {
	for range 50 {
		w := newWorld(t)
		w.mustStart()
		var group sync.WaitGroup
		var errs [2]error
		for i, machine := range []string{runnerID, otherID} {
			group.Go(func() {
				addr := []netip.Addr{runnerAddr, otherAddr}[i]
				_, errs[i] = w.host.register(request("node1", machine, addr), addr)
			})
		}
		group.Wait()
		winner := slices.Index(errs[:], nil)
		if winner < 0 || errs[1-winner] == nil {
			t.Fatalf("%v", errs)
		}
		no, ok := errors.AsType[*refusal](errs[1-winner])
		if !ok || no.code != 409 {
			t.Errorf("the loser: %v", errs[1-winner])
		}
		addr, machine := []netip.Addr{runnerAddr, otherAddr}[winner], []string{runnerID, otherID}[winner]
		a, err := link.ParseAlias(w.device("vxkr1").Alias)
		if err != nil || a.Machine != machine || a.Remote != addr || w.remote(101) != addr || len(w.plane().Remotes()) != 1 || w.allocation("node1").MachineID != machine {
			t.Errorf("alias %+v, %v; tunnels %v", a, err, w.plane().Remotes())
		}
		w.kill()
	}
}

// One machine registers from several addresses at the same time, as one whose
// address flaps does: one id, one device, one tunnel, to one of them, and all that
// tells of it says the same.
func TestOneMachineRaces(t *testing.T) {
	w := newWorld(t)
	w.mustStart()
	w.join(request("node1", runnerID, runnerAddr))
	index := w.device("vxkr1").Index
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			addr := netip.AddrFrom4([4]byte{192, 168, 88, byte(61 + i%4)})
			if a, err := w.host.register(request("node1", runnerID, addr), addr); err != nil || a.RunnerID != 1 {
				t.Errorf("%+v, %v", a, err)
			}
		})
	}
	group.Wait()
	alias, err := link.ParseAlias(w.device("vxkr1").Alias)
	if err != nil || alias.Remote != w.remote(101) || w.allocation("node1").PhysicalIP != alias.Remote || w.device("vxkr1").Index != index || len(w.plane().Remotes()) != 1 {
		t.Errorf("alias %+v, %v; tunnels %v", alias, err, w.plane().Remotes())
	}
	if adds, _ := w.machine.Plane().Calls(); adds != 1 {
		t.Errorf("the tunnel was made %d times", adds)
	}
}

var smallPlan = conf.MustParsePlan("10.0.0.0/22/2/8")

// Whatever runners do, in whatever order, the table, the devices with their
// aliases and the data plane agree, no id is held twice, and what is refused
// changes nothing.
func TestHostKeepsInStep(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.cfg.Overlay.Subnet = smallPlan
		w.mustStart()
		defer func() { w.kill() }()
		names := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		machines := rapid.SampledFrom([]string{runnerID, runnerID, runnerID, otherID})
		addrs := rapid.Custom(func(t *rapid.T) netip.Addr {
			return netip.AddrFrom4([4]byte{192, 168, 88, byte(rapid.IntRange(61, 66).Draw(t, "addr"))})
		})
		picture := func() string {
			devices, err := w.kernel.Devices()
			if err != nil {
				rt.Fatal(err)
			}
			return fmt.Sprint(devices, w.plane().Remotes())
		}
		rt.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				before := picture()
				addr := addrs.Draw(t, "address")
				q := request(names.Draw(t, "name"), machines.Draw(t, "machine"), addr)
				q.PreviousID = rapid.IntRange(0, 5).Draw(t, "previous")
				if _, err := w.host.register(q, addr); err != nil && picture() != before {
					t.Fatalf("refused with %v, and something has changed", err)
				}
			},
			"release": func(t *rapid.T) { _, _ = w.host.release(names.Draw(t, "name")) },
			"remove":  func(t *rapid.T) { _, _ = w.host.remove(names.Draw(t, "name")) },
			"cleanup": func(t *rapid.T) { _, _ = w.host.cleanup() },
			"wait": func(t *rapid.T) {
				w.clock.advance(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
			},
			"restart": func(t *rapid.T) {
				before := picture()
				w.kill()
				if err := w.start(); err != nil {
					t.Fatal(err)
				}
				if now := picture(); now != before {
					t.Fatalf("a restart changed\n%s\nto\n%s", before, now)
				}
			},
			"": func(t *rapid.T) {
				all := w.host.status().Allocations
				remotes := w.plane().Remotes()
				if len(all) != len(remotes) || len(all) > smallPlan.MaxRunners() {
					t.Fatalf("%d allocations, %d tunnels", len(all), len(remotes))
				}
				ids, byName := make(map[int]bool), make(map[string]bool)
				for _, a := range all {
					d, ok := w.kernel.Get(a.VXLANDevice)
					alias, err := link.ParseAlias(d.Alias)
					if !ok || err != nil || ids[a.RunnerID] || byName[a.RunnerName] ||
						alias.ID != a.RunnerID || alias.Runner != a.RunnerName || alias.Machine != a.MachineID || alias.Remote != a.PhysicalIP || w.remote(encap.VNI(a.VNI)) != a.PhysicalIP {
						t.Fatalf("%+v has the device %+v", a, d)
					}
					ids[a.RunnerID], byName[a.RunnerName] = true, true
				}
				devices, err := w.kernel.Devices()
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				for _, d := range devices {
					if d.Name != "kohaku-host" && link.OurName(d.Name) {
						n++
					}
				}
				if n != len(all) {
					t.Fatalf("%d devices for %d allocations", n, len(all))
				}
			},
		})
	})
}
