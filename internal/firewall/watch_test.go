// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kohaku/internal/api"
)

// What others do to our rules is noticed and undone; it is told once, and the rules
// of others stay as they made them.
func TestPutBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		do     func(t *testing.T, iptables string)
		what   string
		by     string // only nf_tables tells
		policy bool   // FORWARD is DROP afterwards
	}{
		{"iptables -F", func(t *testing.T, iptables string) {
			run(t, iptables, "-F")
		}, "wiped", "iptables-", true},
		{"one rule deleted", func(t *testing.T, iptables string) {
			run(t, iptables, "-D", "FORWARD", "1")
		}, "wiped", "iptables-", true},
		{"nat flushed", func(t *testing.T, iptables string) {
			run(t, iptables, "-t", "nat", "-F")
		}, "wiped", "iptables-", true},
		{"dockerd restarts", func(t *testing.T, iptables string) {
			for _, args := range [][]string{
				{"-P", "FORWARD", "DROP"}, {"-N", "DOCKER-USER"}, {"-N", "DOCKER"}, {"-I", "FORWARD", "-o", "docker0", "-j", "DOCKER"},
				{"-A", "DOCKER-USER", "-j", "RETURN"}, {"-I", "FORWARD", "-j", "DOCKER-USER"},
			} {
				run(t, append([]string{iptables}, args...)...)
			}
		}, "displaced", "iptables-", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(m *machine, iptables string) {
				if c.name != "iptables -F" { // once as in life is enough
					m.tables.layer.(*tables).unasked = 100 * time.Millisecond
				}
				run(m.t, iptables, "-P", "FORWARD", "DROP")
				run(m.t, iptables, "-A", "INPUT", "-s", "192.0.2.0/24", "-j", "DROP")
				m.ensure(runner, true)
				m.watch()
				c.do(m.t, iptables)
				before := time.Now()
				e := m.event(1)
				if e.What != c.what || !strings.Contains(e.Lost, iptables) || e.When.After(before.Add(legacyPoll)) {
					m.t.Errorf("event %+v, want one that rules were %s", e, c.what)
				}
				if iptables == "iptables-nft" && (!strings.HasPrefix(e.By, c.by) || e.AtMost) {
					m.t.Errorf("event %+v, want one that names the program and the time", e)
				}
				if iptables == "iptables-legacy" && !e.AtMost {
					m.t.Errorf("event %+v, want a bound: nobody told when it was", e)
				}
				m.t.Log(e.String() + ": " + e.Lost)
				m.eventually("the rules are back", func() bool {
					forward := rules(m.t, iptables, "filter", "FORWARD")
					return len(forward) > 1 && forward[0] == fromRule && forward[1] == toRule &&
						cmp.Equal(rules(m.t, iptables, "nat", "POSTROUTING"), []string{masqRule})
				})
				if n := m.log.count("level=WARN"); n < 1 || n > len(m.Report().Events) {
					m.t.Errorf("%d warnings for %d events", n, len(m.Report().Events))
				}
			})
		})
	}
}

// Everything of nftables gone, iptables' tables with it.
func TestFlushRuleset(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	m.ensure(runner, true)
	m.watch()
	for i := range 3 {
		run(t, "nft", "flush", "ruleset")
		e := m.event(i + 1)
		if e.What != "wiped" || e.By != "nft" || !strings.Contains(e.Lost, "POSTROUTING") {
			t.Errorf("event %+v", e)
		}
		t.Log(e)
	}
	compare(t, "iptables-nft", "filter", "FORWARD", fromRule, toRule)
	if err := m.problems(); err != nil {
		t.Error(err)
	}
}

// New settings while the watch runs are no event; without a change nothing is looked
// at.
func TestSettingsChange(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	m.ensure(runner, true)
	m.watch()
	other := Rules{Overlay: netip.MustParsePrefix("10.128.0.0/12")}
	m.ensure(other, true)
	m.ensure(other, false)
	run(t, "nft", "flush", "ruleset")
	if e := m.event(1); !strings.Contains(e.Lost, "10.128.0.0/12") {
		t.Errorf("event %+v", e)
	}
	compare(t, "iptables-nft", "filter", "FORWARD", strings.ReplaceAll(fromRule, "10.0.0.0/8", "10.128.0.0/12"),
		strings.ReplaceAll(toRule, "10.0.0.0/8", "10.128.0.0/12"))
	compare(t, "iptables-nft", "nat", "POSTROUTING")
}

// What cannot be put back is a problem until it can; then the event says since when.
func TestPutBackLater(t *testing.T) {
	m := newMachine(t)
	m.only("nft")
	m.ensure(runner, true)
	m.watch()
	// Somebody makes a table of the same name that iptables cannot use.
	feed(t, "flush ruleset\ntable ip filter { chain FORWARD { type filter hook forward priority 0; tcp dport { 1, 2 } drop; ct mark set 1; }; }\n", "nft", "-f", "-")
	m.eventually("a problem", func() bool { return m.problems() != nil })
	if err := m.problems(); !strings.Contains(err.Error(), "nft") {
		t.Errorf("problem %v", err)
	}
	run(t, "nft", "delete", "table", "ip", "filter")
	// A look that was under way may have seen the loss in two parts.
	m.eventually("FORWARD is told as lost", func() bool {
		return slices.ContainsFunc(m.Report().Events, func(e api.FirewallEvent) bool {
			return e.What == "wiped" && strings.Contains(e.Lost, "FORWARD")
		})
	})
	m.eventually("the problem is over", func() bool { return m.problems() == nil })
}

// Two programs that undo each other's work do it ever less often, and it is said
// once.
func TestFight(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	m.ensure(runner, true)
	m.watch()
	flushed := 0
	m.eventually("the fight is noticed", func() bool {
		if len(rules(t, "iptables-nft", "filter", "FORWARD")) > 0 {
			run(t, "iptables-nft", "-F", "FORWARD")
			flushed++
		}
		return m.log.count("keeps changing") > 0
	})
	if flushed < patience {
		t.Errorf("held off after %d flushes, want at least %d", flushed, patience)
	}
	for range 3 {
		before := len(m.Report().Events)
		run(t, "iptables-nft", "-F", "FORWARD")
		m.eventually("it is put back all the same", func() bool { return len(m.Report().Events) > before || before == maxHistory })
	}
	if n := m.log.count("keeps changing"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(0, 0)
	for range patience {
		if wait, fight := p.after(now, 200*time.Millisecond, false); wait != minGap || fight {
			t.Errorf("one of a few looks: %v, %v", wait, fight)
		}
	}
	if wait, _ := p.after(now, 20*time.Millisecond, false); wait != 400*time.Millisecond {
		t.Errorf("a look of 20 ms: %v, want a twentieth of a processor", wait)
	}
	if wait, _ := p.after(now, time.Minute, false); wait != maxGap {
		t.Errorf("a slow look: %v", wait)
	}
	fights, last := 0, time.Duration(0)
	for range 30 {
		now = now.Add(time.Second)
		wait, fight := p.after(now, time.Millisecond, true)
		if wait < last || wait > maxHoldOff {
			t.Errorf("waits %v after %v", wait, last)
		}
		if last = wait; fight {
			fights++
		}
	}
	if fights != 1 || last != maxHoldOff {
		t.Errorf("said %d times, ended at %v", fights, last)
	}
	if wait, _ := p.after(now.Add(quiet+time.Second), time.Millisecond, true); wait != minGap {
		t.Errorf("after a quiet time: %v", wait)
	}
}

// The history is bounded.
func TestHistory(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	m.ensure(runner, true)
	for range maxHistory + 3 {
		run(t, "iptables-nft", "-F", "FORWARD")
		m.ensure(runner, true)
	}
	if n := len(m.Report().Events); n != maxHistory {
		t.Errorf("%d events", n)
	}
}

// A watch that ends leaves the rules.
func TestWatchEnds(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	m.ensure(runner, true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { m.Watch(ctx); close(done) }()
	cancel()
	<-done
	compare(t, "iptables-nft", "filter", "FORWARD", fromRule, toRule)
	if _, err := os.Stat(namespaceFile); err != nil {
		t.Error(err)
	}
}

func FuzzGenerationBy(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 8, 0, 3, 0, 'n', 'f', 't', 0})
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 255, 255, 3, 0})
	f.Add([]byte{0, 0, 0, 0, 5, 0, 3, 0, 'n'}) // ends without its padding
	f.Fuzz(func(t *testing.T, data []byte) {
		if name := generationBy(data); len(name) > maxProcessName {
			t.Errorf("name %q", name)
		}
	})
}
