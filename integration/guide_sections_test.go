// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"kohaku/internal/lab"
)

// The sections of the existing system's troubleshooting guide that are about
// settings and devices. Each test provokes a section's cause: it cannot happen, or
// heals, or is refused by a message that names it. The topology is that of
// cluster_test.go.

// "Overlay not enabled": whoever has it switched off says so and how to switch it
// on. A Runner that waits for a Host without it needs no restart.
func TestGuideOverlayNotEnabled(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{}, "[overlay]\nenabled = false")
	const off, on = "enabled = false", "enabled = true"
	// The settings of runner1 also have [docker] enabled = false, which comes first.
	k.rewrite(runner1, "[overlay]\n"+off, "[overlay]\n"+on)
	k.start(theHost)
	k.start(runner2)
	k.daemons[runner1] = k.launch(runner1)
	logged(t, k.daemons[theHost], "the overlay is disabled: no VXLAN tunnel is made (set enabled = true in the [overlay] section of host.toml)")
	logged(t, k.daemons[runner2], "the overlay is disabled: no VXLAN tunnel is made (set enabled = true in the [overlay] section of runner.toml)")
	logged(t, k.daemons[runner1], "Overlay not enabled")
	logged(t, k.daemons[runner1], "set enabled = true in the [overlay] section of host.toml and restart the Host")
	k.says(3, []string{"status"}, "Overlay off", "kohaku node overlay")
	k.says(3, []string{"node", "overlay"}, "Overlay not enabled", "host.toml", "runner.toml", "[overlay]  enabled = true", "systemctl restart kohakuriver-host")
	for m, h := range k.Hosts[:outside] {
		for _, l := range must(h.Handle().LinkList())(t) {
			if name := l.Attrs().Name; name != "lo" && name != "eth0" {
				t.Errorf("%s has a device %s though the overlay is off", k.Hosts[m].Name(), name)
			}
		}
	}

	k.stop(theHost)
	k.rewrite(theHost, off, on)
	k.start(theHost)
	k.daemons[runner1].waitReady()
	k.waitActive("runner1")
	k.stop(runner2)
	k.rewrite(runner2, "[overlay]\n"+off, "[overlay]\n"+on)
	k.start(runner2)
	k.waitActive("runner1", "runner2")
	k.attachBoxes()
	k.checkReach()
}

// "VXLAN remote shows 127.0.0.1": no such address is taken from the settings, nor
// another at which no tunnel could end; without one the route tells.
func TestGuideRemoteShowsLoopback(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	const hostSection, runnerSection = "[host]\n", "[runner]\n"
	set := func(machine int, section, line string) (undo func()) {
		k.rewrite(machine, section, section+line+"\n")
		return func() { k.rewrite(machine, section+line+"\n", section) }
	}
	for _, c := range []struct {
		machine            int
		section, key, addr string
		want               []string
	}{
		{theHost, hostSection, "reachable_address", "127.0.0.1", []string{"not a loopback address"}},
		{theHost, hostSection, "reachable_address", "192.0.2.99", []string{"not an address of this machine", "leave reachable_address empty"}},
		{theHost, hostSection, "reachable_address", "10.3.0.1", []string{"outside the overlay 10.0.0.0/8", "cannot run inside themselves"}},
		{runner1, runnerSection, "address", "127.0.0.1", []string{"not a loopback address"}},
		{runner1, runnerSection, "address", "::1", []string{"not a loopback address"}},
	} {
		undo := set(c.machine, c.section, fmt.Sprintf("%s = %q", c.key, c.addr))
		k.refusesToStart(c.machine, append(c.want, c.key, c.addr)...)
		undo()
	}

	// What a Runner cannot judge by itself: the Host refuses it.
	k.start(theHost)
	undo := set(runner1, runnerSection, `address = "10.3.0.1"`)
	d := k.launch(runner1)
	logged(t, d, "lies inside the overlay 10.0.0.0/8")
	logged(t, d, "in the [runner] section of runner.toml")
	check(t, d.end(syscall.SIGTERM))
	undo()
	// A Runner on the Host's own machine, by whatever address.
	for _, own := range []string{"127.0.0.1", k.Hosts[theHost].V4.String()} {
		path := k.write("own.toml", fmt.Sprintf("[runner]\nhost = \"%s:%d\"\nstate_dir = %q\nmetrics = \"off\"\n[docker]\nenabled = false\n", own, apiPort, k.dir+"/own"))
		d = launch(t, k.Hosts[theHost].Node, "runner", "--config", path)
		logged(t, d, "in the [runner] section is this machine itself ("+own+")")
		check(t, d.end(syscall.SIGTERM))
	}
	if got := k.ids(); got != "" {
		t.Errorf("the table is %s", got)
	}

	// An address of another machine is told by the status.
	undo = set(runner1, runnerSection, `address = "192.0.2.77"`)
	k.start(runner1)
	k.waitProblem(`address = "192.0.2.77" in the [runner] section is not an address of this machine`)
	k.stop(runner1)
	undo()
	// Found from the route.
	k.start(runner1)
	k.start(runner2)
	k.waitActive("runner1", "runner2")
	for i, m := range []int{runner1, runner2} {
		for _, end := range []struct {
			at     int
			device string
			remote netip.Addr
		}{{theHost, fmt.Sprintf("vxkr%d", i+1), k.Hosts[m].V4}, {m, "vxlan0", k.Hosts[theHost].V4}} {
			eventually(t, 20*time.Second, end.device+"'s remote", func() error {
				l, err := (lab.Port{Node: k.Hosts[end.at].Node, Name: end.device}).Link()
				if err != nil {
					return err
				}
				if alias := l.Attrs().Alias; !slices.Contains(strings.Fields(alias), "remote="+end.remote.String()) {
					return fmt.Errorf("the alias is %q", alias)
				}
				return nil
			})
		}
	}
}

// "VXLAN interface not created on Host": one that is deleted comes back, one that
// somebody else has is named and left to him.
func TestGuideInterfaceNotCreated(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	host, r1, r2 := k.Hosts[theHost], k.Hosts[runner1], k.Hosts[runner2]
	ids := k.ids()
	check(t, host.Delete("vxkr1"))
	check(t, r2.Delete("vxlan0"))
	k.checkReach()

	// Under the eyes of the Host, whose hands are tied for a moment.
	host1 := k.daemons[theHost]
	check(t, host1.cmd.Process.Signal(syscall.SIGSTOP))
	check(t, host.Delete("vxkr1"))
	check(t, host.AddBridge("vxkr1", 1400))
	check(t, host1.cmd.Process.Signal(syscall.SIGCONT))
	const remedy = "the device vxkr1 (type bridge, without an alias) was not made by kohaku and is left alone"
	k.waitProblem(remedy)
	k.waitProblem("ip link delete vxkr1")
	k.says(3, []string{"status"}, "Overlay degraded", remedy)
	k.stillTheirs(theHost, "vxkr1")
	check(t, host.Delete("vxkr1"))
	k.checkReach()
	eventually(t, 20*time.Second, "no problem any more", k.noProblem)
	if now := k.ids(); now != ids {
		t.Errorf("the table was %s, is %s", ids, now)
	}

	// Before the Host's start: the runner gets an id whose name is free.
	k.stop(theHost)
	check(t, host.Delete("vxkr1"))
	check(t, host.AddBridge("vxkr1", 1400))
	k.start(theHost)
	logged(t, k.daemons[theHost], "the device vxkr1 (type bridge, without an alias)")
	k.waitActive("runner2", "runner1")
	if a := k.allocation("runner1"); a.VXLANDevice != "vxkr3" {
		t.Errorf("runner1 has %s", a.VXLANDevice)
	}
	k.stillTheirs(theHost, "vxkr1")
	reach(t, r1.Node, netip.MustParseAddr("10.0.0.1"))
	check(t, host.Delete("vxkr1"))
	eventually(t, 20*time.Second, "no problem any more", k.noProblem)

	// On a Runner there is one name only.
	k.stop(runner2)
	check(t, r2.Delete("vxlan0"))
	check(t, r2.AddBridge("vxlan0", 1400))
	k.refusesToStart(runner2, "the device vxlan0 (type bridge, without an alias) was not made by kohaku", "ip link delete vxlan0")
	k.stillTheirs(runner2, "vxlan0")
}

// "VXLAN interface not created on Host" for want of a right or of the driver: what
// is missing is named where a person looks.
func TestGuideInterfaceNotPermitted(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	kohaku := must(kohakuBinary())(t)
	powerless := func(machine int, role string) *daemon {
		return launchProgram(t, k.Hosts[machine].Node, nil, "setpriv", "--bounding-set", "-net_admin", "--", kohaku, role, "--config", k.config[machine])
	}
	ended(t, powerless(theHost, "host"), "kohaku-host", "CAP_NET_ADMIN")
	k.start(theHost)
	ended(t, powerless(runner1, "runner"), "kohaku-overlay", "CAP_NET_ADMIN")
	k.stop(theHost)
	// Over devices of an earlier run it keeps what it can.
	d := powerless(theHost, "host")
	d.waitReady()
	k.waitProblem("VXLAN tunnel to runner runner1 (vxkr1): open TAP device vxkr1: set MAC address")
	k.waitProblem("CAP_NET_ADMIN")
	check(t, d.end(syscall.SIGTERM))
	// Without the driver's file, in a mount namespace of its own.
	without := func(machine int, role string) *daemon {
		return launchProgram(t, k.Hosts[machine].Node, nil, "unshare", "--mount", "sh", "-ec", `mount -t tmpfs none /dev/net; exec "$@"`, "sh",
			kohaku, role, "--config", k.config[machine])
	}
	d = without(theHost, "host")
	k.daemons[theHost] = d
	d.waitReady()
	// runner1 has had a device before, runner2 has not.
	for _, m := range []int{runner1, runner2} {
		k.daemons[m] = k.launch(m)
		logged(t, k.daemons[m], "modprobe tun")
	}
	logged(t, d, "modprobe tun")
	k.waitProblem("VXLAN tunnel to runner runner1 (vxkr1): open TAP device vxkr1: no such file or directory: the kernel has no TUN/TAP driver here; load it (modprobe tun)")
	k.waitProblem("VXLAN tunnel to runner runner2 (vxkr2): open TAP device vxkr2: no such file or directory: the kernel has no TUN/TAP driver here; load it (modprobe tun)")
	// With it, the Runners that wait are let in.
	k.stop(theHost)
	k.start(theHost)
	for _, m := range []int{runner1, runner2} {
		k.daemons[m].waitReady()
	}
	k.waitActive("runner1", "runner2")
	eventually(t, 20*time.Second, "no problem any more", k.noProblem)
	k.stop(runner2)
	d = without(runner2, "runner")
	logged(t, d, "modprobe tun")
	_ = d.end(syscall.SIGTERM) // how it ends is not the point here
}

// "Container can't reach Host at 10.0.0.1": whatever happens to the device with
// that address, it is put back.
func TestGuideHostAddressGone(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	h := k.Hosts[theHost]
	to := netip.MustParseAddr("10.0.0.1")
	for _, c := range []struct {
		name  string
		fault func()
	}{
		{"address removed", func() {
			l := must(lab.Port{Node: h.Node, Name: "kohaku-host"}.Link())(t)
			for _, a := range must(h.Handle().AddrList(l, netlink.FAMILY_V4))(t) {
				check(t, h.Handle().AddrDel(l, &a))
			}
		}},
		{"device down", func() { check(t, h.SetDown("kohaku-host")) }},
		{"device deleted", func() { check(t, h.Delete("kohaku-host")) }},
	} {
		start := time.Now()
		c.fault()
		eventually(t, 20*time.Second, c.name, func() error {
			l, err := (lab.Port{Node: h.Node, Name: "kohaku-host"}).Link()
			if err != nil {
				return err
			}
			addrs, err := h.Handle().AddrList(l, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			if len(addrs) != 1 || addrs[0].IPNet.String() != "10.0.0.1/8" || l.Attrs().Flags&1 == 0 {
				return fmt.Errorf("addresses %v, flags %v", addrs, l.Attrs().Flags)
			}
			return nil
		})
		for _, box := range k.boxes {
			check(t, k.pingUntil(box, to, true))
		}
		t.Logf("%s: put back and reached after %v", c.name, time.Since(start).Round(time.Millisecond))
	}
	eventually(t, 20*time.Second, "no problem", k.noProblem)
}

// says runs the program on the Host and wants an exit status and texts.
func (k *cluster) says(status int, args []string, want ...string) {
	k.t.Helper()
	args = append(args, "--host", fmt.Sprintf("http://127.0.0.1:%d", apiPort))
	cmd := k.Hosts[theHost].Command(k.t.Context(), must(kohakuBinary())(k.t), args...)
	out, _ := cmd.CombinedOutput() // the status is looked at
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		k.t.Errorf("kohaku %s: %v, want exit status %d", strings.Join(args, " "), cmd.ProcessState, status)
	}
	for _, w := range want {
		if !strings.Contains(string(out), w) {
			k.t.Errorf("kohaku %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
}

// refusesToStart wants a machine's daemon to end by itself, with these texts.
func (k *cluster) refusesToStart(machine int, want ...string) {
	k.t.Helper()
	ended(k.t, k.launch(machine), want...)
}

// ended waits for a daemon that ends by itself, and wants it to say why.
func ended(t *testing.T, d *daemon, want ...string) {
	t.Helper()
	select {
	case <-d.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s runs on, want %q\n%s", d.name, want, d.log())
	}
	if d.err == nil {
		t.Errorf("%s: exit status 0, want %q", d.name, want)
	}
	for _, w := range want {
		if !strings.Contains(d.log(), w) {
			t.Errorf("%s does not say %q:\n%s", d.name, w, d.log())
		}
	}
}

// waitProblem waits until the status names a problem.
func (k *cluster) waitProblem(text string) {
	k.t.Helper()
	eventually(k.t, 20*time.Second, "the problem in the status", func() error {
		s, err := k.status()
		if err == nil && !strings.Contains(strings.Join(s.Problems, "\n"), text) {
			err = fmt.Errorf("no %q in %q", text, s.Problems)
		}
		return err
	})
}

func (k *cluster) noProblem() error {
	s, err := k.status()
	if err == nil && len(s.Problems) > 0 {
		err = errors.New(strings.Join(s.Problems, "\n"))
	}
	return err
}

// stillTheirs checks that a bridge of somebody else is as he made it.
func (k *cluster) stillTheirs(machine int, device string) {
	k.t.Helper()
	n := k.Hosts[machine].Node
	l := must(lab.Port{Node: n, Name: device}.Link())(k.t)
	addrs := must(n.Handle().AddrList(l, netlink.FAMILY_V4))(k.t)
	if l.Type() != "bridge" || l.Attrs().Alias != "" || l.Attrs().MTU != 1400 || len(addrs) > 0 {
		k.t.Errorf("somebody else's %s has become: type %s, alias %q, MTU %d, addresses %v", device, l.Type(), l.Attrs().Alias, l.Attrs().MTU, addrs)
	}
}
