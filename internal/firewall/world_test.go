// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"kohaku/internal/api"
	"kohaku/internal/link/linktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var runner = Rules{Overlay: netip.MustParsePrefix("10.0.0.0/8"), Masquerade: true}

// machine is a network namespace without a firewall, and a Firewall for it. The test
// runs in the namespace; programs that it starts do, too.
type machine struct {
	*Firewall
	t   *testing.T
	log *logBuffer
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	t.Setenv("XTABLES_LOCKFILE", filepath.Join(t.TempDir(), "lock"))
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "no-bus"))
	return newMachineHere(t)
}

// newMachineHere leaves the environment as it is.
func newMachineHere(t *testing.T) *machine {
	t.Helper()
	linktest.Namespace(t)
	log := &logBuffer{}
	return &machine{Firewall: New(slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))), t: t, log: log}
}

// choose makes the machine's iptables the given variant, "nft" or "legacy".
func (m *machine) choose(variant string) {
	m.tables.layer.(*tables).look = func(name string) (string, error) {
		if name == "iptables" || name == "ip6tables" {
			name += "-" + variant
		}
		return find(name)
	}
}

// only makes the given variant the only one that is installed.
func (m *machine) only(variant string) {
	m.tables.layer.(*tables).look = func(name string) (string, error) {
		if name == "iptables" || name == "ip6tables" {
			return find(name + "-" + variant)
		}
		return "", exec.ErrNotFound
	}
}

// watch starts Watch; it ends with the test.
func (m *machine) watch() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { m.Watch(ctx); close(done) }()
	m.t.Cleanup(func() {
		cancel()
		<-done
		if m.t.Failed() {
			m.t.Logf("the log:\n%s", m.log)
		}
	})
	m.eventually("the watch is on", func() bool {
		m.tables.mu.Lock()
		defer m.tables.mu.Unlock()
		return m.tables.told
	})
}

func (m *machine) eventually(what string, ok func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("%s: it did not come to pass; problems: %v\n%s", what, m.problems(), m.log)
		}
	}
}

// event waits for the nth event.
func (m *machine) event(n int) api.FirewallEvent {
	m.t.Helper()
	m.eventually("an event", func() bool { return len(m.Report().Events) >= n })
	return m.Report().Events[n-1]
}

func (m *machine) ensure(r Rules, wantChanges bool) {
	m.t.Helper()
	changes, err := m.Ensure(r)
	if err != nil {
		m.t.Fatal(err)
	}
	if (len(changes) > 0) != wantChanges {
		m.t.Fatalf("changes reported: %q, wanted some: %v", changes, wantChanges)
	}
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		var said string
		if e, ok := err.(*exec.ExitError); ok {
			said = string(e.Stderr)
		}
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, said)
	}
	return strings.TrimSpace(string(out))
}

// feed runs a program with an input.
func feed(t *testing.T, input string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// rules lists a chain of a variant without its policy.
func rules(t *testing.T, program, table, chain string) []string {
	t.Helper()
	var out []string
	for _, line := range strings.Split(run(t, program, "-t", table, "-S", chain), "\n") {
		if strings.HasPrefix(line, "-A ") {
			out = append(out, line)
		}
	}
	return out
}

func compare(t *testing.T, program, table, chain string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, rules(t, program, table, chain), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s %s (-want +got):\n%s", program, chain, diff)
	}
}

const (
	fromRule  = "-A FORWARD -s 10.0.0.0/8 -m comment --comment kohaku -j ACCEPT"
	toRule    = "-A FORWARD -d 10.0.0.0/8 -m comment --comment kohaku -j ACCEPT"
	masqRule  = "-A POSTROUTING -s 10.0.0.0/8 ! -d 10.0.0.0/8 -m comment --comment kohaku -j MASQUERADE"
	vxlanRule = "-A INPUT -p udp -m udp --dport 4789 -m comment --comment kohaku -j ACCEPT"
)

// foreignDump is everything in the packet filters that is not ours: both variants,
// both IP versions, with counters, and nftables' own tables. (Looking makes the legacy tables.)
func foreignDump(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, program := range []string{"iptables-nft-save", "iptables-legacy-save", "ip6tables-nft-save", "ip6tables-legacy-save"} {
		b.WriteString("== " + program + "\n")
		for line := range strings.Lines(run(t, program, "-c")) {
			if strings.HasPrefix(line, "#") || strings.Contains(line, "--comment kohaku ") {
				continue
			}
			// The legacy program, whoever calls it, zeroes the policies' counters with
			// every change.
			if strings.HasPrefix(line, ":") && strings.Contains(program, "legacy") {
				line, _, _ = strings.Cut(line, "[")
			}
			b.WriteString(strings.TrimSpace(line) + "\n")
		}
	}
	for table := range strings.SplitSeq(run(t, "nft", "list", "ruleset"), "\ntable ") {
		if strings.Contains(table, "theirs") || strings.Contains(table, "firewalld") {
			b.WriteString(table + "\n")
		}
	}
	return b.String()
}

// logBuffer may be written while a test reads it.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// count counts the lines of the log that hold a text.
func (l *logBuffer) count(text string) int {
	n := 0
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}
