// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"kohaku/internal/link/linktest"
)

var variants = []string{"nft", "legacy"}

// each runs a test on a machine of either variant. (A subtest has a goroutine of its
// own, which is the one that goes into the namespace.)
func each(t *testing.T, test func(m *machine, iptables string)) {
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			m := newMachine(t)
			m.choose(v)
			test(m, "iptables-"+v)
		})
	}
}

func TestEnsureTwice(t *testing.T) {
	each(t, func(m *machine, iptables string) {
		m.ensure(runner, true)
		m.ensure(runner, false)
		compare(m.t, iptables, "filter", "FORWARD", fromRule, toRule)
		compare(m.t, iptables, "nat", "POSTROUTING", masqRule)
		compare(m.t, iptables, "filter", "INPUT")
		if got := m.Report().Backends; !cmp.Equal(got, []string{iptables}) {
			m.t.Errorf("backends %q", got)
		}
	})
}

func TestHostDoesNotMasquerade(t *testing.T) {
	each(t, func(m *machine, iptables string) {
		m.ensure(runner, true)
		m.ensure(Rules{Overlay: runner.Overlay}, true)
		compare(m.t, iptables, "filter", "FORWARD", fromRule, toRule)
		compare(m.t, iptables, "nat", "POSTROUTING")
	})
}

func TestEnsureGoesBackToTheTop(t *testing.T) {
	each(t, func(m *machine, iptables string) {
		m.ensure(runner, true)
		run(m.t, iptables, "-I", "FORWARD", "1", "-m", "comment", "--comment", "kohaku is not mine", "-j", "DROP")
		run(m.t, iptables, "-I", "FORWARD", "3", "-s", "192.0.2.0/24", "-j", "DROP") // between our two
		run(m.t, iptables, "-A", "FORWARD", "-s", "10.0.0.0/8", "-j", "ACCEPT")
		m.ensure(runner, true)
		compare(m.t, iptables, "filter", "FORWARD", fromRule, toRule,
			`-A FORWARD -m comment --comment "kohaku is not mine" -j DROP`, "-A FORWARD -s 192.0.2.0/24 -j DROP", "-A FORWARD -s 10.0.0.0/8 -j ACCEPT")
		m.ensure(runner, false)
		if e := m.event(1); e.What != "displaced" || !strings.Contains(e.Lost, iptables+" FORWARD -s 10.0.0.0/8 -j ACCEPT") {
			m.t.Errorf("event %+v", e)
		}
	})
}

func TestEnsureReplacesAnotherOverlay(t *testing.T) {
	each(t, func(m *machine, iptables string) {
		m.ensure(Rules{Overlay: netip.MustParsePrefix("10.128.0.0/12"), Masquerade: true}, true)
		run(m.t, iptables, "-A", "FORWARD", "-m", "comment", "--comment", "kohaku", "-s", "10.128.0.0/12", "-j", "ACCEPT") // a duplicate
		run(m.t, iptables, "-A", "FORWARD", "-m", "comment", "--comment", "kohaku", "-s", "10.0.0.0/8", "-j", "ACCEPT")    // in a wrong place
		m.ensure(runner, true)
		compare(m.t, iptables, "filter", "FORWARD", fromRule, toRule)
		compare(m.t, iptables, "nat", "POSTROUTING", masqRule)
		if n := len(m.Report().Events); n != 0 {
			m.t.Errorf("%d events, though only the settings changed", n)
		}
	})
}

// othersRules are a machine's own: chains, policies, counters.
const othersRules = `*filter
:INPUT DROP [7:700]
:FORWARD DROP [8:800]
:OUTPUT ACCEPT [9:900]
:DOCKER-USER - [0:0]
:mine - [0:0]
[1:100] -A INPUT -i lo -j ACCEPT
[2:200] -A INPUT -s 198.51.100.0/24 -j DROP
[3:300] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
[4:400] -A FORWARD -j DOCKER-USER
[5:500] -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[6:600] -A DOCKER-USER -m comment --comment "two words" -j RETURN
[7:700] -A mine -s 10.0.0.0/8 -m comment --comment "kohaku too" -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [1:10]
:INPUT ACCEPT [2:20]
:OUTPUT ACCEPT [3:30]
:POSTROUTING ACCEPT [4:40]
[5:50] -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*mangle
:PREROUTING ACCEPT [1:10]
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
[1:1] -A PREROUTING -j MARK --set-xmark 0x1/0xffffffff
COMMIT
`

const othersIPv6 = `*filter
:INPUT DROP [7:700]
:FORWARD DROP [8:800]
:OUTPUT ACCEPT [9:900]
[1:100] -A INPUT -i lo -j ACCEPT
[2:200] -A INPUT -s 2001:db8::/64 -j DROP
[3:300] -A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
`

const nativeTable = `table inet theirs {
	set banned { type ipv4_addr; elements = { 203.0.113.9 } }
	counter seen { packets 3 bytes 300 }
	chain input { type filter hook input priority 5; policy accept; ip saddr @banned counter packets 4 bytes 400 drop; }
}
`

// Whatever we do, everything of others stays as it was: order, counters, policies.
func TestOthersAreUntouched(t *testing.T) {
	each(t, func(m *machine, iptables string) {
		feed(m.t, othersRules, "iptables-nft-restore", "--counters")
		feed(m.t, othersRules, "iptables-legacy-restore", "--counters")
		feed(m.t, othersIPv6, "ip6tables-nft-restore", "--counters")
		feed(m.t, nativeTable, "nft", "-f", "-")
		foreignDump(m.t)
		before := foreignDump(m.t)

		r := runner
		r.Port = 4789
		m.ensure(r, true)
		m.ensure(r, false)
		for _, program := range []string{"iptables-nft", "iptables-legacy"} { // a drop in either one counts
			if got := rules(m.t, program, "filter", "FORWARD"); len(got) != 4 || got[0] != fromRule || got[1] != toRule {
				m.t.Errorf("%s FORWARD: %q", program, got)
			}
			if got := rules(m.t, program, "filter", "INPUT"); len(got) != 4 || got[3] != vxlanRule {
				m.t.Errorf("%s INPUT: %q", program, got)
			}
		}
		compare(m.t, "ip6tables-nft", "filter", "INPUT", "-A INPUT -i lo -j ACCEPT", "-A INPUT -s 2001:db8::/64 -j DROP",
			"-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", vxlanRule)
		if diff := cmp.Diff(before, foreignDump(m.t)); diff != "" {
			m.t.Errorf("others' rules after Ensure (-before +after):\n%s", diff)
		}
		for range 2 {
			run(m.t, iptables, "-F", "FORWARD")
			run(m.t, iptables, "-A", "FORWARD", "-j", "DOCKER-USER")
			before = foreignDump(m.t)
			m.ensure(r, true)
			if diff := cmp.Diff(before, foreignDump(m.t)); diff != "" {
				m.t.Errorf("others' rules after a repair (-before +after):\n%s", diff)
			}
		}
		if _, err := m.Remove(); err != nil {
			m.t.Fatal(err)
		}
		if diff := cmp.Diff(before, foreignDump(m.t)); diff != "" {
			m.t.Errorf("others' rules after Remove (-before +after):\n%s", diff)
		}
		for _, program := range []string{"iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save"} {
			if out := run(m.t, program); strings.Contains(out, "--comment kohaku ") {
				m.t.Errorf("%s still has rules of ours:\n%s", program, out)
			}
		}
		if changes, err := m.Remove(); err != nil || len(changes) != 0 {
			m.t.Errorf("second Remove: %q, %v", changes, err)
		}
	})
}

// The variant that nobody uses is left alone: not even its tables are made.
func TestUnusedVariant(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	m.ensure(runner, true)
	if names, err := os.ReadFile("/proc/thread-self/net/ip_tables_names"); err != nil || len(names) > 0 {
		t.Errorf("legacy tables %q, %v; want none made", names, err)
	}
	// Somebody begins to use it, and stops.
	run(t, "iptables-legacy", "-P", "FORWARD", "DROP")
	m.ensure(runner, true)
	compare(t, "iptables-legacy", "filter", "FORWARD", fromRule, toRule)
	compare(t, "iptables-legacy", "nat", "POSTROUTING") // one masquerade is enough
	run(t, "iptables-legacy", "-P", "FORWARD", "ACCEPT")
	m.ensure(runner, true)
	compare(t, "iptables-legacy", "filter", "FORWARD")
}

// A machine without one of the variants works with the other.
func TestOneVariant(t *testing.T) {
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			m := newMachine(t)
			m.only(v)
			m.ensure(runner, true)
			compare(t, "iptables-"+v, "filter", "FORWARD", fromRule, toRule)
		})
	}
}

func TestMissingProgram(t *testing.T) {
	m := newMachine(t)
	m.tables.layer.(*tables).look = func(string) (string, error) { return "", exec.ErrNotFound }
	_, err := m.Ensure(runner)
	if !errors.Is(err, ErrNoIPTables) || !strings.Contains(err.Error(), "do not reach the outside") || !strings.Contains(err.Error(), "install") {
		t.Errorf("error %v; want ErrNoIPTables, what will not work, and what to do", err)
	}
	// A Host needs no rule where nothing is in the way.
	if _, err := m.Ensure(Rules{Overlay: runner.Overlay, Port: 4789}); err != nil {
		t.Errorf("on a Host without any firewall: %v", err)
	}
}

// A kernel without nf_tables: the machine's iptables-nft fails, the other works.
func TestKernelWithoutNFTables(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	script := "#!/bin/sh\ncase \"$*\" in --version) echo 'iptables v1.8.9 (nf_tables)';; " +
		"*) echo 'iptables: Failed to initialize nft: Protocol not supported' >&2; exit 1;; esac\n"
	for _, name := range []string{"iptables", "ip6tables"} {
		if err := os.WriteFile(dir+"/"+name, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	missing := true
	m.tables.layer.(*tables).look = func(name string) (string, error) {
		switch {
		case name == "iptables" || name == "ip6tables":
			return dir + "/" + name, nil
		case missing:
			return "", exec.ErrNotFound
		}
		return find(name)
	}
	_, err := m.Ensure(runner)
	if err == nil || !strings.Contains(err.Error(), "Protocol not supported") || !strings.Contains(err.Error(), "load the modules") {
		t.Errorf("error %v; want the program's words and a remedy", err)
	}
	missing = false
	m.tables.layer.(*tables).v4 = nil
	m.ensure(runner, true)
	compare(t, "iptables-legacy", "filter", "FORWARD", fromRule, toRule)
	compare(t, "iptables-legacy", "nat", "POSTROUTING", masqRule)
}

// Without the privilege nothing is changed and the message says what is missing.
func TestNoPermission(t *testing.T) {
	m := newMachine(t)
	m.ensure(runner, true)
	// The programs inherit the thread's effective capabilities only if it is root
	// and may regain them: a bounding set without CAP_NET_ADMIN prevents that.
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_NET_ADMIN, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	_, err := m.Ensure(Rules{Overlay: netip.MustParsePrefix("10.128.0.0/12")})
	if err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
		t.Errorf("error %v; want one that names the privilege", err)
	}
}

// The xtables lock, which only the legacy variant has, is waited for; what holds it
// for too long is named.
func TestLock(t *testing.T) {
	m := newMachine(t)
	m.choose("legacy")
	file, err := os.Create(os.Getenv("XTABLES_LOCKFILE"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err = m.Ensure(runner); err == nil || !strings.Contains(err.Error(), "fuser") {
		t.Fatalf("error %v; want one that says how to find who holds the lock", err)
	}
	done := make(chan error)
	go func() { _, err := m.Ensure(runner); done <- err }()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("after the lock was free: %v", err)
	}
	compare(t, "iptables-legacy", "filter", "FORWARD", fromRule, toRule)
}

// A change that the kernel refuses in part is not made in part.
func TestHalfAChange(t *testing.T) {
	each(t, func(m *machine, iptables string) {
		m.ensure(runner, true)
		p := program{path: run(m.t, "which", iptables), legacy: iptables == "iptables-legacy"}
		script := "-D FORWARD -s 10.0.0.0/8 -m comment --comment kohaku -j ACCEPT\n-I FORWARD 1 -s 10.0.0.0/8 -j NOSUCHCHAIN\n"
		err := p.apply(m.t.Context(), "filter", script)
		if err == nil || !strings.Contains(err.Error(), "NOSUCHCHAIN") {
			m.t.Errorf("error %v; want one that shows the change", err)
		}
		compare(m.t, iptables, "filter", "FORWARD", fromRule, toRule)
	})
}

// The namespace is that of the thread that called New, whichever thread works.
func TestNamespace(t *testing.T) {
	m := newMachine(t)
	done := make(chan error)
	go func() {
		linktest.Namespace(t) // another one
		_, err := m.Ensure(runner)
		if err == nil && len(rules(t, "iptables", "filter", "FORWARD")) != 0 {
			err = errors.New("the rules are in the namespace of the caller")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	compare(t, "iptables", "filter", "FORWARD", fromRule, toRule)
}

func TestSplit(t *testing.T) {
	cases := map[string][]string{
		`-A FORWARD -m comment --comment "two words" -j DROP`: {"-A", "FORWARD", "-m", "comment", "--comment", "two words", "-j", "DROP"},
		`--comment "a \"b\" c"`:                               {"--comment", `a "b" c`},
		`--comment ""`:                                        {"--comment", ""},
		`  a  b `:                                             {"a", "b"},
		``:                                                    nil,
	}
	for line, want := range cases {
		if diff := cmp.Diff(want, split(line)); diff != "" {
			t.Errorf("split(%q) (-want +got):\n%s", line, diff)
		}
	}
}
