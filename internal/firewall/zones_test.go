// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"kohaku/internal/firewall/firewalldtest"
)

// firewalld is the real one, in the test's namespace, on a system bus of its own.
type firewalld struct {
	*machine
	*firewalldtest.Firewalld
}

// start starts a program in the test's namespace; tests may only end it by the
// function that it returns.
func start(bus string, args ...string) (kill func(), err error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }, nil // "signal: killed"
}

func newFirewalld(t *testing.T) *firewalld {
	t.Helper()
	m := newMachine(t)
	m.choose("nft")
	t.Cleanup(m.zones.close)
	run(t, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
	d, err := firewalldtest.New(t.TempDir(), start)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", d.Bus())
	f := &firewalld{m, d}
	f.start()
	return f
}

func (f *firewalld) start() {
	f.t.Helper()
	if err := f.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.eventually("firewalld runs", func() bool { return exec.Command("firewall-cmd", "--state").Run() == nil })
}

func (f *firewalld) interfaces(zone string) []string {
	f.t.Helper()
	names := strings.Fields(run(f.t, "firewall-cmd", "--zone="+zone, "--list-interfaces"))
	slices.Sort(names)
	return names
}

func (f *firewalld) richRules(zone string) []string {
	f.t.Helper()
	out := run(f.t, "firewall-cmd", "--zone="+zone, "--list-rich-rules")
	if out == "" {
		return nil
	}
	lines := strings.Split(out, "\n")
	slices.Sort(lines)
	return lines
}

const (
	hostRich   = `rule priority="4789" port port="4789" protocol="udp" accept`
	runnerRich = `rule priority="4789" family="ipv4" source address="192.0.2.1" port port="4789" protocol="udp" accept`
)

func (f *firewalld) check(what string, r Rules, rich ...string) {
	f.t.Helper()
	want := slices.Sorted(slices.Values(r.Trusted))
	f.eventually(what, func() bool {
		return cmp.Equal(f.interfaces("trusted"), want, cmpopts.EquateEmpty()) && cmp.Equal(f.richRules("public"), rich, cmpopts.EquateEmpty())
	})
}

// firewalld's life with us: its zones get what they need, at runtime only, and get it
// back after a reload, a restart and a person's hand.
func TestFirewalld(t *testing.T) {
	f := newFirewalld(t)
	run(t, "firewall-cmd", "--zone=internal", "--add-interface=other0")
	run(t, "firewall-cmd", "--permanent", "--zone=public", "--add-rich-rule=rule family=ipv4 source address=203.0.113.1 drop")
	run(t, "firewall-cmd", "--reload")
	permanent := run(t, "firewall-cmd", "--permanent", "--list-all-zones")
	const theirs = `rule family="ipv4" source address="203.0.113.1" drop`

	f.ensure(wholeHost, true)
	f.check("all is in place", wholeHost, theirs, hostRich)
	f.ensure(wholeHost, false)
	if got := f.Report().Backends; !cmp.Equal(got, []string{"iptables-nft", "firewalld"}) {
		t.Errorf("backends %q", got)
	}
	f.watch()

	for _, c := range []struct {
		name string
		do   func()
		lost string
	}{
		{"reload", func() { run(t, "firewall-cmd", "--reload") }, "VXLAN let in by zone public"},
		{"complete reload", func() { run(t, "firewall-cmd", "--complete-reload") }, "VXLAN let in by zone public"},
		{"taken out of the zone", func() { run(t, "firewall-cmd", "--zone=trusted", "--remove-interface=vxkr1") }, "trusted zone vxkr1"},
		{"moved to another zone", func() { run(t, "firewall-cmd", "--zone=public", "--change-interface=vxkr2") }, "trusted zone vxkr2"},
		{"restart", func() { f.Kill(); f.start() }, "trusted zone vxkr1"},
	} {
		before := len(f.Report().Events)
		c.do()
		f.eventually(c.name, func() bool { return len(f.Report().Events) > before })
		f.check(c.name, wholeHost, theirs, hostRich)
		told := false
		for _, e := range f.Report().Events[before:] {
			t.Log(c.name, "-", e, "-", e.Lost)
			told = told || strings.Contains(e.Lost, c.lost)
		}
		if !told {
			t.Errorf("%s: no event tells of %q", c.name, c.lost)
		}
	}
	if now := run(t, "firewall-cmd", "--permanent", "--list-all-zones"); now != permanent {
		t.Errorf("the permanent settings have changed:\n%s", cmp.Diff(permanent, now))
	}
	if err := f.problems(); err != nil {
		t.Error(err)
	}
	if _, err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	f.check("all is removed", Rules{}, theirs)
}

// Others' settings decide: a zone whose admin has a word about the port is left
// alone, a Runner lets its Host in and nobody else, a released Runner's device goes.
func TestFirewalldRespects(t *testing.T) {
	f := newFirewalld(t)
	f.ensure(wholeRunner, true)
	f.check("a Runner", wholeRunner, runnerRich)
	moved := wholeRunner
	moved.Peer = netip.MustParseAddr("192.0.2.9")
	f.ensure(moved, true)
	f.check("the Host has moved", moved, strings.ReplaceAll(runnerRich, "192.0.2.1", "192.0.2.9"))
	f.ensure(wholeHost, true)
	fewer := wholeHost
	fewer.Trusted = []string{"vxkr2", "kohaku-host"}
	f.ensure(fewer, true)
	f.check("a runner was released", fewer, hostRich)
	run(t, "firewall-cmd", "--zone=public", "--add-port=4789/udp")
	f.ensure(fewer, true)
	f.check("the admin opened the port", fewer)
	run(t, "firewall-cmd", "--zone=public", "--remove-port=4789/udp")
	run(t, "firewall-cmd", "--zone=public", `--add-rich-rule=rule family=ipv4 source address=192.0.2.0/24 port port=4789 protocol=udp accept`)
	f.ensure(fewer, false)
	run(t, "firewall-cmd", "--zone=trusted", "--change-interface=eth0")
	f.ensure(fewer, false)
}

// The "admin prohibited" of the guide: firewalld rejects what iptables accepts, until
// the devices are in its trusted zone.
func TestAdminProhibited(t *testing.T) {
	f := newFirewalld(t)
	r := wholeHost
	f.Firewall.zones.layer.(*zones).connect = func(func(string)) (bus, error) { return nil, os.ErrNotExist }
	_, err := f.Ensure(r)
	if err == nil || !strings.Contains(err.Error(), "admin-prohibited") || !strings.Contains(err.Error(), "firewall-cmd --zone=trusted --add-interface") {
		t.Errorf("problem %v; want one that names the reject and the zone", err)
	}
	f.Firewall.zones.layer.(*zones).connect = connectBus
	f.ensure(r, true)
}

// Many devices come back within the promised time; firewalld takes them one by one.
func TestFirewalldManyRunners(t *testing.T) {
	f := newFirewalld(t)
	r := wholeHost
	r.Trusted = []string{"kohaku-host"}
	for i := 1; i <= 40; i++ {
		r.Trusted = append(r.Trusted, "vxkr"+string("0123456789abcdefghijklmnopqrstuvwxyz"[i%36])+map[bool]string{true: "1"}[i > 35])
	}
	r.Trusted = slices.Compact(slices.DeleteFunc(r.Trusted, func(s string) bool { return s == "vxkr0" || s == "vxkr01" }))
	f.ensure(r, true)
	f.watch()
	f.Kill()
	f.start()
	f.check("they are back", r, hostRich)
	for _, e := range f.Report().Events {
		t.Log(e)
	}
}

// A firewalld of another namespace is not ours to change.
func TestFirewalldElsewhere(t *testing.T) {
	f := newFirewalld(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		m := newMachineHere(t)
		changes, err := m.Ensure(wholeHost)
		if err != nil || slices.ContainsFunc(changes, func(c string) bool { return strings.Contains(c, "firewalld") }) {
			t.Errorf("changes %q, %v; want none in firewalld", changes, err)
		}
		m.zones.close()
	}()
	<-done
	f.check("nothing was changed", Rules{})
}
