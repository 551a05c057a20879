// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"kohaku/internal/firewall/firewalldtest"
	"kohaku/internal/lab"
)

// The topology is that of cluster_test.go; the Host, and in the end a Runner, has
// firewalld as Fedora and its relatives do.

// firewalld starts the real one on a machine of the cluster, with the API's port
// open, which is the admin's to decide.
func (k *cluster) firewalld(machine int) *firewalldtest.Firewalld {
	k.t.Helper()
	node := k.Hosts[machine].Node
	f := must(firewalldtest.New(must(os.MkdirTemp("", "firewalld"))(k.t), func(bus string, args ...string) (func(), error) {
		out := &lockedBuffer{}
		cmd := node.Command(context.Background(), args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		return func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }, nil // "signal: killed"
	}))(k.t)
	k.t.Cleanup(f.Close)
	check(k.t, f.Start())
	k.waitFirewalld(f)
	k.firewallCmd(f, "--permanent", "--add-port=8000/tcp")
	k.firewallCmd(f, "--reload")
	return f
}

func (k *cluster) waitFirewalld(f *firewalldtest.Firewalld) {
	k.t.Helper()
	eventually(k.t, 60*time.Second, "firewalld", func() error {
		out, err := k.tryFirewallCmd(f, "--state")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func (k *cluster) tryFirewallCmd(f *firewalldtest.Firewalld, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(k.t.Context(), 20*time.Second)
	defer cancel()
	cmd := k.Hosts[theHost].Command(ctx, "firewall-cmd", args...)
	cmd.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+f.Bus())
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (k *cluster) firewallCmd(f *firewalldtest.Firewalld, args ...string) string {
	k.t.Helper()
	out, err := k.tryFirewallCmd(f, args...)
	if err != nil {
		k.t.Fatalf("firewall-cmd %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// startOnBus starts a machine's daemon with a system bus of its own.
func (k *cluster) startOnBus(machine int, bus string) {
	k.t.Helper()
	role := "runner"
	if machine == theHost {
		role = "host"
	}
	k.daemons[machine] = launchProgram(k.t, k.Hosts[machine].Node, []string{"DBUS_SYSTEM_BUS_ADDRESS=" + bus},
		must(kohakuBinary())(k.t), role, "--config", k.config[machine])
	k.daemons[machine].waitReady()
}

// "Admin prohibited filter": firewalld rejects what comes from the overlay's devices,
// whatever iptables accepts, until they are in its trusted zone. The daemon puts them
// there, and keeps them there.
func TestFirewalld(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	f := k.firewalld(theHost)
	permanent := k.firewallCmd(f, "--permanent", "--list-all-zones")

	// Without a way to firewalld: the guide's symptom, and its cause is named.
	k.startOnBus(theHost, "unix:path="+t.TempDir()+"/none")
	k.start(runner1)
	k.start(runner2)
	k.waitActive("runner1", "runner2")
	k.attachBoxes()
	for range 3 {
		if err := k.pingOnce(0, k.boxAddr(1), 300*time.Millisecond); err == nil {
			t.Error("a ping passes though firewalld knows nothing of the overlay")
		}
	}
	eventually(t, 20*time.Second, "the cause is named", func() error {
		for _, p := range must(k.status())(t).Problems {
			if strings.Contains(p, "admin-prohibited") && strings.Contains(p, "firewall-cmd --zone=trusted --add-interface") {
				return nil
			}
		}
		return fmt.Errorf("problems: %q", must(k.status())(t).Problems)
	})
	k.stop(theHost)

	k.startOnBus(theHost, f.Bus())
	k.waitActive("runner1", "runner2")
	k.back("the daemon with firewalld", 0, k.boxAddr(1))
	k.checkReach()
	k.noFirewallProblem()
	finish := k.flow()
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"firewall-cmd --reload", func() { k.firewallCmd(f, "--reload") }},
		{"firewall-cmd --complete-reload", func() { k.firewallCmd(f, "--complete-reload") }},
		{"vxkr1 taken out of the zone", func() { k.firewallCmd(f, "--zone=trusted", "--remove-interface=vxkr1") }},
		{"vxkr2 moved to another zone", func() { k.firewallCmd(f, "--zone=block", "--change-interface=vxkr2") }},
		{"nft flush ruleset", func() { k.do(theHost, "nft", "flush", "ruleset") }},
		{"firewalld restarts", func() { f.Kill(); check(t, f.Start()); k.waitFirewalld(f) }},
	} {
		// A connection that conntrack knew before nothing asked it any more, and after
		// firewalld asks again, may be "invalid" to it, which firewalld drops. That is
		// between the two of them: connections here begin before or after a flush.
		if strings.HasPrefix(c.name, "nft flush") {
			finish()
		}
		before := time.Now()
		c.do()
		k.back(c.name, 0, k.boxAddr(1))
		eventually(t, 20*time.Second, c.name+": the status tells", func() error {
			for _, e := range k.firewallEvents(theHost) {
				if e.When.After(before) {
					t.Logf("%s: %s: %s", c.name, e, e.Lost)
					return nil
				}
			}
			return fmt.Errorf("events: %v", k.firewallEvents(theHost))
		})
		if strings.HasPrefix(c.name, "nft flush") {
			finish = k.flow()
		}
	}
	finish()
	k.checkReach()
	eventually(t, 20*time.Second, "the zones are as they were", func() error {
		devices := strings.Fields(k.firewallCmd(f, "--zone=trusted", "--list-interfaces"))
		if len(devices) != 3 {
			return fmt.Errorf("trusted: %q", devices)
		}
		return nil
	})
	if now := k.firewallCmd(f, "--permanent", "--list-all-zones"); now != permanent {
		t.Errorf("firewalld's permanent settings: %v", differ(permanent, now))
	}
	k.noFirewallProblem()
}
