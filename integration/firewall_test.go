// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
)

// The topology is that of cluster_test.go: host, runner1, runner2 on a switch, a
// container on each Runner. Here every machine has a firewall that drops what it was
// not told to accept, and people and programs who change it.

// filterRules are an admin's, for one machine: everything is dropped but what the
// rules name. VXLAN and the overlay are not among it.
const filterRules = `*filter
:INPUT DROP [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:THEIRS - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m tcp --dport 8000 -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -p tcp -j ACCEPT
-A INPUT -s 198.51.100.0/24 -j DROP
-A INPUT -d 10.0.0.0/8 -p icmp -j ACCEPT
-A FORWARD -s 198.51.100.0/24 -j THEIRS
-A THEIRS -j RETURN
COMMIT
`

const foreignTable = `table inet theirs {
	chain forward { type filter hook forward priority 5; policy accept; ip saddr 203.0.113.9 drop; }
}
`

// feed runs a program on a machine with an input.
func (k *cluster) feed(machine int, input string, args ...string) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 20*time.Second)
	defer cancel()
	cmd := k.Hosts[machine].Command(ctx, args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		k.t.Fatalf("%s on %s: %v\n%s", strings.Join(args, " "), k.Hosts[machine].Name(), err, out)
	}
}

func (k *cluster) do(machine int, args ...string) {
	k.t.Helper()
	k.feed(machine, "", args...)
}

// others are the rules on a machine that are not ours.
func (k *cluster) others(machine int) string {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 20*time.Second)
	defer cancel()
	var b strings.Builder
	for line := range strings.Lines(k.rules(k.Hosts[machine])) {
		if !strings.Contains(line, "--comment kohaku ") {
			b.WriteString(line)
		}
	}
	out := must(k.Hosts[machine].Command(ctx, "nft", "list", "tables").Output())(k.t)
	if strings.Contains(string(out), "inet theirs") {
		out = must(k.Hosts[machine].Command(ctx, "nft", "list", "table", "inet", "theirs").Output())(k.t)
		b.Write(out)
	}
	return b.String()
}

// pingOnce pings with a socket of its own, so that no connection tracker knows it.
func (k *cluster) pingOnce(box int, to netip.Addr, patience time.Duration) error {
	k.t.Helper()
	p := open(k.t, k.boxes[box], func() (*traffic.Pinger, error) { return traffic.NewPinger(netip.Addr{}, to) })
	defer p.Close()
	ctx, cancel := context.WithTimeout(k.t.Context(), patience)
	defer cancel()
	_, err := p.Ping(ctx, 56)
	return err
}

// back waits until pings pass again, a few in a row, and tells how long that took.
func (k *cluster) back(what string, box int, to netip.Addr) {
	k.t.Helper()
	start, first, row := time.Now(), time.Time{}, 0
	eventually(k.t, 20*time.Second, what, func() error {
		if err := k.pingOnce(box, to, 200*time.Millisecond); err != nil {
			row = 0
			return err
		}
		if row++; row == 1 {
			first = time.Now()
		}
		if row < 5 {
			return fmt.Errorf("only %d pings in a row", row)
		}
		return nil
	})
	k.t.Logf("%s: traffic is back after %v", what, first.Sub(start).Round(time.Millisecond))
}

// flow keeps a TCP connection between the containers busy until the function that it
// returns is called, which wants all of it to have arrived as it was sent.
func (k *cluster) flow() (finish func()) {
	k.t.Helper()
	sink := closeAfter(k.t, open(k.t, k.boxes[1], func() (*traffic.TCPSink, error) {
		return traffic.ListenTCP(netip.AddrPortFrom(k.boxAddr(1), 0))
	}))
	stream := open(k.t, k.boxes[0], func() (*traffic.TCPStream, error) {
		return traffic.DialTCP(within(k.t, 20*time.Second), netip.Addr{}, sink.Addr())
	})
	k.t.Cleanup(func() { stream.Close() }) // closed already, unless the test failed
	stop, done := make(chan struct{}), make(chan error, 1)
	var sent traffic.TCPResult
	go func() {
		var err error
		sent, err = stream.SendUntil(k.t.Context(), 5, stop)
		done <- err
	}()
	return func() {
		k.t.Helper()
		close(stop)
		select {
		case err := <-done:
			check(k.t, err)
			k.t.Logf("one TCP connection through all of it: %d MiB", sent.Bytes>>20)
		case <-time.After(60 * time.Second):
			k.t.Fatal("the TCP connection hangs")
		}
	}
}

// firewallEvents are those of a machine, as the Host's status has them.
func (k *cluster) firewallEvents(machine int) []api.FirewallEvent {
	k.t.Helper()
	s := must(k.status())(k.t)
	f := s.Firewall
	if machine != theHost {
		f = k.allocation(k.Hosts[machine].Name()).RunnerFirewall
	}
	if f == nil {
		return nil
	}
	return f.Events
}

// Rules of ours that others wipe come back by themselves, on machines where traffic
// does not pass without them, and the rules of others stay as they made them.
func TestFirewallWiped(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	for _, i := range []int{theHost, runner1, runner2} {
		k.feed(i, filterRules, "iptables-restore")
		k.feed(i, foreignTable, "nft", "-f", "-")
	}
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	k.noFirewallProblem()
	finish := k.flow()
	out := k.Hosts[outside].V4

	// What a loss does is seen where no daemon puts it back: traffic to the outside
	// is the kernel's alone.
	k.feed(runner1, "flush ruleset\n", "nft", "-f", "-")
	k.feed(runner1, filterRules, "iptables-restore")
	k.back("the first repair", 0, out)
	check(t, k.daemons[runner1].cmd.Process.Signal(syscall.SIGSTOP))
	k.do(runner1, "iptables", "-F", "FORWARD")
	for range 3 {
		if err := k.pingOnce(0, out, 300*time.Millisecond); err == nil {
			t.Error("a ping passes though the FORWARD chain of runner1 drops it")
		}
	}
	check(t, k.daemons[runner1].cmd.Process.Signal(syscall.SIGCONT))
	k.back("runner1's daemon wakes up", 0, out)

	for _, c := range []struct {
		name    string
		machine int
		wipe    func()
		to      netip.Addr
	}{
		{"Host: iptables -F", theHost, func() { k.do(theHost, "iptables", "-F", "FORWARD") }, k.boxAddr(1)},
		{"Host: nft flush ruleset, and the admin's file again", theHost, func() {
			k.feed(theHost, "flush ruleset\ntable ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }\n"+foreignTable, "nft", "-f", "-")
		}, k.boxAddr(1)},
		{"Host: iptables-restore", theHost, func() { k.feed(theHost, filterRules, "iptables-restore") }, k.boxAddr(1)},
		{"Host: rules put in front", theHost, func() { k.do(theHost, "iptables", "-I", "FORWARD", "-j", "DROP") }, k.boxAddr(1)},
		{"Host: nft flush ruleset", theHost, func() { k.do(theHost, "nft", "flush", "ruleset") }, k.boxAddr(1)},
		{"Runner: iptables-restore", runner1, func() { k.feed(runner1, filterRules, "iptables-restore") }, k.boxAddr(1)},
		{"Runner: nat flushed", runner1, func() { k.do(runner1, "iptables", "-t", "nat", "-F") }, out},
		{"Runner: nft flush ruleset", runner1, func() { k.do(runner1, "nft", "flush", "ruleset") }, out},
	} {
		before := len(k.firewallEvents(c.machine))
		var last time.Time
		if events := k.firewallEvents(c.machine); before > 0 {
			last = events[before-1].When
		}
		c.wipe()
		others := k.others(c.machine)
		k.back(c.name, 0, c.to)
		eventually(t, 20*time.Second, c.name, func() error {
			for _, e := range k.firewallEvents(c.machine) {
				if e.When.After(last) {
					t.Logf("%s: %s: %s", c.name, e, e.Lost)
					return nil
				}
			}
			return fmt.Errorf("the status has no event of it: %v", k.firewallEvents(c.machine))
		})
		if now := k.others(c.machine); now != others {
			t.Errorf("%s: rules of others: %v", c.name, differ(others, now))
		}
	}
	finish()
	k.checkReach()
	k.noFirewallProblem()
	for _, i := range []int{theHost, runner1} {
		if log := k.daemons[i].log(); !strings.Contains(log, "had vanished from the firewall and are back") {
			t.Errorf("the log of %s does not tell:\n%s", k.Hosts[i].Name(), log)
		}
	}
}

// noFirewallProblem waits until nobody has anything to say against a firewall.
func (k *cluster) noFirewallProblem() {
	k.t.Helper()
	eventually(k.t, 20*time.Second, "no problem with the firewall", func() error {
		s, err := k.status()
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(s.Problems, func(p string) bool {
			return strings.Contains(p, "firewall") || strings.Contains(p, "chain")
		}); i >= 0 {
			return fmt.Errorf("problem: %s", s.Problems[i])
		}
		return nil
	})
}

// A chain of somebody else's that drops cannot be talked over by rules of ours; it is
// named with what to do, and when that is done the problem is over.
func TestFirewallForeignChain(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	k.feed(theHost, "table inet strict { chain between { type filter hook forward priority 0; policy drop; }; }\n", "nft", "-f", "-")
	if err := k.pingOnce(0, k.boxAddr(1), 300*time.Millisecond); err == nil {
		t.Error("a ping passes a chain that drops it")
	}
	var problem string
	eventually(t, 20*time.Second, "the chain is named", func() error {
		for _, p := range must(k.status())(t).Problems {
			if strings.Contains(p, `"between" of table inet strict`) {
				problem = p
				return nil
			}
		}
		return fmt.Errorf("problems: %q", must(k.status())(t).Problems)
	})
	_, remedy, _ := strings.Cut(problem, "loaded from: ")
	for command := range strings.SplitSeq(remedy, "; ") {
		k.do(theHost, strings.Fields(command)...)
	}
	k.back("what the problem's text tells to do was done", 0, k.boxAddr(1))
	k.noFirewallProblem()
}
