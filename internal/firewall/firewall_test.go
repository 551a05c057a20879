// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"errors"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"kohaku/internal/link/linktest"
)

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// rules lists a chain without its policy.
func rules(t *testing.T, table, chain string) []string {
	t.Helper()
	lines := strings.Split(run(t, "iptables", "-t", table, "-S", chain), "\n")
	return lines[1:]
}

var runner = Rules{Overlay: netip.MustParsePrefix("10.0.0.0/8"), Masquerade: true}

const (
	fromRule = "-A FORWARD -s 10.0.0.0/8 -m comment --comment kohaku -j ACCEPT"
	toRule   = "-A FORWARD -d 10.0.0.0/8 -m comment --comment kohaku -j ACCEPT"
	masqRule = "-A POSTROUTING -s 10.0.0.0/8 ! -d 10.0.0.0/8 -m comment --comment kohaku -j MASQUERADE"
)

func ensure(t *testing.T, r Rules, wantChanges bool) {
	t.Helper()
	changes, err := Firewall{}.Ensure(r)
	if err != nil {
		t.Fatal(err)
	}
	if (len(changes) > 0) != wantChanges {
		t.Fatalf("changes reported: %q, wanted some: %v", changes, wantChanges)
	}
}

func compare(t *testing.T, table, chain string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, rules(t, table, chain), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", chain, diff)
	}
}

func TestEnsureTwice(t *testing.T) {
	linktest.Namespace(t)
	ensure(t, runner, true)
	ensure(t, runner, false)
	compare(t, "filter", "FORWARD", fromRule, toRule)
	compare(t, "nat", "POSTROUTING", masqRule)
}

func TestHostDoesNotMasquerade(t *testing.T) {
	linktest.Namespace(t)
	ensure(t, runner, true)
	ensure(t, Rules{Overlay: runner.Overlay}, true)
	compare(t, "filter", "FORWARD", fromRule, toRule)
	compare(t, "nat", "POSTROUTING")
}

func TestEnsureGoesBackToTheTop(t *testing.T) {
	linktest.Namespace(t)
	ensure(t, runner, true)
	run(t, "iptables", "-I", "FORWARD", "1", "-m", "comment", "--comment", "kohaku is not mine", "-j", "DROP")
	run(t, "iptables", "-A", "FORWARD", "-s", "10.0.0.0/8", "-j", "ACCEPT")
	ensure(t, runner, true)
	compare(t, "filter", "FORWARD", fromRule, toRule,
		`-A FORWARD -m comment --comment "kohaku is not mine" -j DROP`, "-A FORWARD -s 10.0.0.0/8 -j ACCEPT")
	ensure(t, runner, false)
}

func TestEnsureAfterFlush(t *testing.T) {
	linktest.Namespace(t)
	ensure(t, runner, true)
	run(t, "iptables", "-F")
	run(t, "iptables", "-t", "nat", "-F")
	ensure(t, runner, true)
	compare(t, "filter", "FORWARD", fromRule, toRule)
	compare(t, "nat", "POSTROUTING", masqRule)
}

func TestEnsureReplacesAnotherOverlay(t *testing.T) {
	linktest.Namespace(t)
	ensure(t, Rules{Overlay: netip.MustParsePrefix("10.128.0.0/12"), Masquerade: true}, true)
	run(t, "iptables", "-A", "FORWARD", "-m", "comment", "--comment", "kohaku", "-s", "10.128.0.0/12", "-j", "ACCEPT") // a duplicate
	ensure(t, runner, true)
	compare(t, "filter", "FORWARD", fromRule, toRule)
	compare(t, "nat", "POSTROUTING", masqRule)
}

func TestRemoveTakesOnlyOurs(t *testing.T) {
	linktest.Namespace(t)
	run(t, "iptables", "-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "DROP")
	ensure(t, runner, true)
	changes, err := Firewall{}.Remove()
	if err != nil || len(changes) != 3 {
		t.Fatalf("Remove: %q, %v; want three changes", changes, err)
	}
	compare(t, "filter", "FORWARD", "-A FORWARD -s 192.0.2.0/24 -j DROP")
	compare(t, "nat", "POSTROUTING")
	if changes, err := (Firewall{}).Remove(); err != nil || len(changes) != 0 {
		t.Errorf("second Remove: %q, %v", changes, err)
	}
}

func TestMissingProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Firewall{}.Ensure(runner)
	if !errors.Is(err, ErrNoIPTables) || !strings.Contains(err.Error(), "FORWARD") {
		t.Errorf("error %v; want ErrNoIPTables and what will not work", err)
	}
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
