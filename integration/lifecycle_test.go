// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/lab"

	"github.com/vishvananda/netlink"
)

// The topology is that of cluster_test.go: host, runner1, runner2 on a switch,
// a container on each Runner.

// Whatever way the daemons ended, the next start gives the same ids, devices,
// addresses, routes and rules, and traffic passes.
func TestRestart(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	first := k.snapshot()
	ids := k.ids()

	all := []int{theHost, runner1, runner2}
	for _, c := range []struct {
		name     string
		between  func()
		machines []int
	}{
		{"SIGTERM, all", func() {
			for _, i := range all {
				if took := k.stop(i); took > time.Second {
					t.Errorf("%s took %v to end after SIGTERM", k.Hosts[i].Name(), took)
				}
			}
			k.devicesAreThere()
		}, all},
		{"SIGTERM, the Host alone", func() { k.stop(theHost) }, []int{theHost}},
		{"kill -9, all", func() {
			for _, i := range all {
				k.kill(i)
			}
			k.devicesAreThere()
		}, all},
		{"kill -9, one Runner", func() { k.kill(runner2) }, []int{runner2}},
		{"Runners before the Host", func() {
			for _, i := range all {
				k.stop(i)
			}
		}, []int{runner2, runner1, theHost}},
		{"over leftovers that others damaged", func() {
			for _, i := range all {
				k.kill(i)
			}
			k.damage()
		}, all},
	} {
		c.between()
		for _, i := range c.machines {
			k.daemons[i] = k.launch(i)
		}
		for _, i := range c.machines {
			k.daemons[i].waitReady()
		}
		k.waitActive("runner1", "runner2")
		if now := k.ids(); now != ids {
			t.Errorf("%s: ids were %s, are %s", c.name, ids, now)
		}
		eventually(t, 20*time.Second, c.name, func() error { return differ(first, k.snapshot()) })
		k.checkReach()
	}
}

// A second daemon on a machine refuses, says why, and leaves the first alone.
func TestStartTwice(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	first := k.snapshot()
	for _, machine := range []int{theHost, runner1} {
		second := k.launch(machine)
		select {
		case <-second.done:
		case <-time.After(20 * time.Second):
			t.Fatalf("a second daemon runs on %s\n%s", k.Hosts[machine].Name(), second.log())
		}
		if second.err == nil {
			t.Errorf("a second daemon on %s ended with status 0", k.Hosts[machine].Name())
		}
		if !strings.Contains(second.log(), "taken") && !strings.Contains(second.log(), "in use") {
			t.Errorf("the second daemon on %s does not say that something is taken:\n%s", k.Hosts[machine].Name(), second.log())
		}
	}
	if err := differ(first, k.snapshot()); err != nil {
		t.Error(err)
	}
	k.waitActive("runner1", "runner2")
	k.checkReach()
}

// A Runner that stops is inactive after the missed heartbeats, keeps its
// allocation, and is the same again when it returns; released, it is gone.
func TestInactiveAndBack(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	k.attachBoxes()
	before := k.allocation("runner2")
	k.kill(runner2)
	k.waitActive("runner1")
	gone := k.allocation("runner2")
	if gone.RunnerID != before.RunnerID || gone.VXLANDevice != before.VXLANDevice {
		t.Errorf("inactive, the allocation became %+v, it was %+v", gone, before)
	}
	if _, err := (lab.Port{Node: k.Hosts[theHost].Node, Name: before.VXLANDevice}).Link(); err != nil {
		t.Errorf("the tunnel device of the inactive Runner: %v", err)
	}
	k.start(runner2)
	k.waitActive("runner1", "runner2")
	if back := k.allocation("runner2"); back.RunnerID != before.RunnerID {
		t.Errorf("id %d before, %d after", before.RunnerID, back.RunnerID)
	}
	k.checkReach()

	k.stop(runner2)
	k.waitActive("runner1")
	var answer api.ReleaseAnswer
	check(t, k.call(http.MethodPost, api.PathRelease+"runner2", &answer))
	if answer.RunnerID != before.RunnerID {
		t.Errorf("released id %d, want %d", answer.RunnerID, before.RunnerID)
	}
	if n := len(must(k.status())(t).Allocations); n != 1 {
		t.Errorf("%d allocations after the release, want 1", n)
	}
	if _, err := (lab.Port{Node: k.Hosts[theHost].Node, Name: before.VXLANDevice}).Link(); err == nil {
		t.Errorf("%s stays after its Runner was released", before.VXLANDevice)
	}
}

// What leaves the overlay does so under the Runner's address.
func TestMasquerade(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	k.attachBoxes()
	ctx := within(t, 20*time.Second)
	l := closeAfter(t, open(t, k.Hosts[outside].Node, func() (net.Listener, error) {
		return net.Listen("tcp", netip.AddrPortFrom(k.Hosts[outside].V4, 0).String())
	}))
	for i, m := range []int{runner1, runner2} {
		c := open(t, k.boxes[i], func() (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		})
		seen := must(l.Accept())(t)
		if got := seen.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); got != k.Hosts[m].V4 {
			t.Errorf("box%d is seen as %s outside, want its Runner's %s", i+1, got, k.Hosts[m].V4)
		}
		seen.Close()
		c.Close()
	}
}

// A port that somebody else has is named, with who has it.
func TestPortTaken(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	h := k.Hosts[theHost]
	check(t, h.AddKernelVXLAN(lab.KernelVXLAN{Name: "foreign", VNI: 9, Remote: k.Hosts[outside].V4, Lower: "eth0"}))
	d := k.launch(theHost)
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("the Host runs though its UDP port is taken\n%s", d.log())
	}
	if d.err == nil {
		t.Error("exit status 0")
	}
	for _, want := range []string{"4789", "kernel VXLAN device"} {
		if !strings.Contains(d.log(), want) {
			t.Errorf("the message does not name %q:\n%s", want, d.log())
		}
	}
	if links := must(h.Handle().LinkList())(t); slices.ContainsFunc(links, func(l netlink.Link) bool { return strings.HasPrefix(l.Attrs().Name, "vxkr") }) {
		t.Error("devices were made though the Host could not start")
	}
}

// ids is the Host's table in one line.
func (k *cluster) ids() string {
	k.t.Helper()
	var all []string
	for _, a := range must(k.status())(k.t).Allocations {
		all = append(all, fmt.Sprintf("%s=%d/%d/%s/%s", a.RunnerName, a.RunnerID, a.VNI, a.VXLANDevice, a.Subnet))
	}
	return strings.Join(all, " ")
}

// devicesAreThere checks what a daemon leaves to its successor.
func (k *cluster) devicesAreThere() {
	k.t.Helper()
	for machine, devices := range map[int][]string{
		theHost: {"kohaku-host", "vxkr1", "vxkr2"},
		runner1: {"vxlan0", "kohaku-overlay"},
		runner2: {"vxlan0", "kohaku-overlay"},
	} {
		for _, d := range devices {
			l, err := lab.Port{Node: k.Hosts[machine].Node, Name: d}.Link()
			if err != nil {
				k.t.Errorf("after the daemon's end: %v", err)
				continue
			}
			if strings.HasPrefix(d, "vx") && l.Attrs().Alias == "" {
				k.t.Errorf("%s on %s has lost its alias", d, k.Hosts[machine].Name())
			}
		}
	}
}

// damage is what a person, another program or a reboot may do while no daemon
// looks.
func (k *cluster) damage() {
	k.t.Helper()
	host, r1, r2 := k.Hosts[theHost], k.Hosts[runner1], k.Hosts[runner2]
	vxkr1 := must(lab.Port{Node: host.Node, Name: "vxkr1"}.Link())(k.t)
	for _, a := range must(host.Handle().AddrList(vxkr1, netlink.FAMILY_V4))(k.t) {
		check(k.t, host.Handle().AddrDel(vxkr1, &a))
	}
	check(k.t, host.AddAddr("vxkr1", netip.MustParsePrefix("10.9.9.9/16")))
	check(k.t, host.SetMTU("vxkr2", 1300))
	check(k.t, host.Delete("kohaku-host"))
	check(k.t, host.Sysctl("net.ipv4.ip_forward", "0"))
	check(k.t, r1.SetDown("vxlan0"))
	vxlan0 := must(lab.Port{Node: r1.Node, Name: "vxlan0"}.Link())(k.t)
	check(k.t, r1.Handle().LinkSetNoMaster(vxlan0))
	check(k.t, r2.Delete("vxlan0"))
	out, err := r2.Command(k.t.Context(), "iptables", "-t", "nat", "-F").CombinedOutput()
	if err != nil {
		k.t.Fatalf("iptables -F: %v: %s", err, out)
	}
}

// snapshot is the state of each machine's network, as far as it must be the
// same after any restart. Numbers that the kernel gives (indexes, handles,
// lifetimes) are left out, and so is what belongs to nobody's configuration.
func (k *cluster) snapshot() string {
	k.t.Helper()
	var b strings.Builder
	for _, i := range []int{theHost, runner1, runner2} {
		h := k.Hosts[i]
		fmt.Fprintf(&b, "== %s\n", h.Name())
		names := map[int]string{}
		var lines []string
		links := must(h.Handle().LinkList())(k.t)
		for _, l := range links {
			names[l.Attrs().Index] = l.Attrs().Name
		}
		for _, l := range links {
			a := l.Attrs()
			lines = append(lines, fmt.Sprintf("link %s %s mtu %d master %s mac %s up %v alias %q", a.Name, l.Type(), a.MTU,
				names[a.MasterIndex], a.HardwareAddr, a.Flags&net.FlagUp != 0, a.Alias))
			for _, addr := range must(h.Handle().AddrList(l, netlink.FAMILY_V4))(k.t) {
				lines = append(lines, fmt.Sprintf("addr %s %s", a.Name, addr.IPNet))
			}
		}
		for _, r := range must(h.Handle().RouteList(nil, netlink.FAMILY_V4))(k.t) {
			lines = append(lines, fmt.Sprintf("route %v via %v dev %s src %v", r.Dst, r.Gw, names[r.LinkIndex], r.Src))
		}
		slices.Sort(lines)
		b.WriteString(strings.Join(lines, "\n"))
		fmt.Fprintf(&b, "\nip_forward %s\n", must(h.ReadSysctl("net.ipv4.ip_forward"))(k.t))
		b.WriteString(k.rules(h))
	}
	return b.String()
}

// rules are a machine's iptables rules, in their order, without counters.
func (k *cluster) rules(h *lab.UnderlayHost) string {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 20*time.Second)
	defer cancel()
	out, err := h.Command(ctx, "iptables-save").Output()
	check(k.t, err)
	var b strings.Builder
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "-A") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// differ returns an error that shows the lines in which two texts differ.
func differ(want, got string) error {
	if want == got {
		return nil
	}
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var lines []string
	for _, l := range w {
		if !slices.Contains(g, l) {
			lines = append(lines, "- "+l)
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			lines = append(lines, "+ "+l)
		}
	}
	return fmt.Errorf("the network is not as before:\n%s", strings.Join(lines, "\n"))
}
