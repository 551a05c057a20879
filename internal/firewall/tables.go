// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// tables is the iptables layer, both variants and both IP versions. Used by one
// goroutine at a time.
type tables struct {
	look       finder
	unasked    time.Duration // between looks at what tells nobody of its changes
	v4, v6     []program
	discovered time.Time

	// placed are the rules that were in place after the last good look, by what
	// they are.
	placed map[string]bool
	using  []program
}

func newTables() *tables {
	return &tables{look: find, unasked: legacyPoll, placed: make(map[string]bool)}
}

const (
	// rediscover is how often it is asked whether programs came or the machine's
	// choice between them changed.
	rediscover = 30 * time.Second
	// attempts at a change that others' changes get in the way of.
	attempts = 4
)

func (t *tables) programs(ctx context.Context) {
	if len(t.v4) > 0 && time.Since(t.discovered) < rediscover {
		return
	}
	t.v4, t.v6 = discover(ctx, t.look, false), discover(ctx, t.look, true)
	t.discovered = time.Now()
}

// place names a rule for events and as a key: "iptables-nft FORWARD -s 10.0.0.0/8 -j ACCEPT".
func place(p program, chain string, spec []string) string {
	text := strings.Join(spec, " ")
	return p.String() + " " + chain + " " + strings.Replace(text, "-m comment --comment "+Comment+" ", "", 1)
}

func (t *tables) ensure(ctx context.Context, r Rules) pass {
	t.programs(ctx)
	if len(t.v4) == 0 {
		t.using = nil
		what := "containers are cut off where FORWARD drops"
		if r.Masquerade {
			what += ", and do not reach the outside through this Runner"
		}
		return pass{err: fmt.Errorf("%w: %s (install the package iptables)", ErrNoIPTables, what)}
	}
	var result pass
	placed := make(map[string]bool)
	var using []program
	for _, programs := range [][]program{t.v4, t.v6} {
		if len(programs) == 0 || programs[0].v6 && !hasIPv6() {
			continue
		}
		using = append(using, t.ensureFamily(ctx, r, programs, placed, &result)...)
	}
	t.using = using
	if result.err == nil {
		t.placed = placed
	}
	return result
}

// hasIPv6 reports whether the namespace has any IPv6 address, be it loopback's.
func hasIPv6() bool {
	data, err := os.ReadFile("/proc/thread-self/net/if_inet6")
	return err == nil && len(data) > 0
}

// ensureFamily brings about the rules of one IP version and gives the programs that
// have some.
func (t *tables) ensureFamily(ctx context.Context, r Rules, programs []program, placed map[string]bool, result *pass) []program {
	var using []program
	var firstErr error
	main := -1
	for i, p := range programs {
		if (main >= 0 || p.v6) && !p.touched(filterTable) {
			continue // nothing there can be in the way
		}
		have, err := p.list(ctx, filterTable)
		switch {
		case err == nil:
		case main < 0 && unsupported(err.Error()):
			// The machine's choice may be one that its kernel cannot do.
			if firstErr == nil {
				firstErr = err
			}
			continue
		default:
			result.fail(err)
			return using
		}
		first := main < 0
		if first {
			main = i
		}
		// Both variants' chains are asked by the kernel, so a drop in either one
		// counts. Where nobody but us has rules, ours would only be in the way.
		filter := first || have.foreign()
		if t.ensureTable(ctx, p, filterTable, r, filter, have, placed, result) {
			using = append(using, p)
		}
		if p.v6 || !first && !p.touched(natTable) {
			continue
		}
		if have, err = p.list(ctx, natTable); err != nil {
			if first && r.Masquerade {
				result.fail(err)
			}
			continue
		}
		t.ensureTable(ctx, p, natTable, r, first, have, placed, result)
	}
	// In IPv6 there is only something to let in where a filter is.
	if main < 0 && !programs[0].v6 {
		result.fail(firstErr)
	}
	return using
}

// wishes are what one table should hold; with in false, nothing.
func wishes(r Rules, p program, table string, in bool, have chains) []wish {
	forward := wish{table: filterTable, chain: forwardChain}
	input := wish{table: filterTable, chain: inputChain}
	post := wish{table: natTable, chain: postroutingChain}
	if in {
		overlay := r.Overlay.Masked().String()
		if !p.v6 && r.Overlay.IsValid() {
			forward.rules = [][]string{
				{"-s", overlay, "-m", "comment", "--comment", Comment, "-j", "ACCEPT"},
				{"-d", overlay, "-m", "comment", "--comment", Comment, "-j", "ACCEPT"},
			}
		}
		if r.Masquerade {
			post.rules = [][]string{
				{"-s", overlay, "!", "-d", overlay, "-m", "comment", "--comment", Comment, "-j", "MASQUERADE"},
			}
		}
		if table == filterTable {
			input = inputWish(r, p.v6, have)
		}
	}
	if table == natTable {
		return []wish{post}
	}
	return []wish{forward, input}
}

// ensureTable brings about one table and reports whether it holds any rule of ours.
func (t *tables) ensureTable(ctx context.Context, p program, table string, r Rules, in bool, have chains, placed map[string]bool, result *pass) bool {
	for attempt := 1; ; attempt++ {
		var script strings.Builder
		var changes, lost, displaced, want []string
		for _, w := range wishes(r, p, table, in, have) {
			d := w.compare(have.rules[w.chain])
			script.WriteString(w.script(d))
			for _, spec := range w.rules {
				want = append(want, place(p, w.chain, spec))
			}
			for _, spec := range d.stale {
				changes = append(changes, "removed "+place(p, w.chain, spec))
			}
			for _, spec := range d.missing {
				key := place(p, w.chain, spec)
				changes = append(changes, "put in "+key)
				if t.placed[key] {
					lost = append(lost, key)
				}
			}
			for _, spec := range d.displaced {
				key := place(p, w.chain, spec)
				changes = append(changes, "moved to its place: "+key)
				if t.placed[key] {
					displaced = append(displaced, key)
				}
			}
		}
		var err error
		if script.Len() > 0 {
			err = p.apply(ctx, table, script.String())
		}
		if err != nil && raced(err) && attempt < attempts && ctx.Err() == nil {
			if have, err = p.list(ctx, table); err == nil {
				continue
			}
		}
		result.lost = append(result.lost, lost...)
		result.displaced = append(result.displaced, displaced...)
		if err != nil {
			result.fail(err)
			return true
		}
		result.changes = append(result.changes, changes...)
		for _, key := range want {
			placed[key] = true
		}
		return len(want) > 0
	}
}

func (t *tables) remove(ctx context.Context) (changes []string, err error) {
	t.programs(ctx)
	var result pass
	for _, p := range slices.Concat(t.v4, t.v6) {
		for _, table := range []string{filterTable, natTable} {
			if p.v6 && (table == natTable || !hasIPv6()) || !p.touched(table) {
				continue
			}
			have, err := p.list(ctx, table)
			if err != nil {
				result.fail(err)
				continue
			}
			t.ensureTable(ctx, p, table, Rules{}, false, have, map[string]bool{}, &result)
		}
	}
	maps.DeleteFunc(t.placed, func(string, bool) bool { return true })
	t.using = nil
	return result.changes, result.err
}

func (t *tables) inUse() []string {
	var names []string
	for _, p := range t.using {
		names = append(names, p.String())
	}
	return names
}

const (
	// eventPoll is the pause between looks where the kernel tells of changes.
	eventPoll = 20 * time.Second
	// legacyPoll is the pause where it does not.
	legacyPoll = 3 * time.Second
)

// poll is how long to go without a look. A legacy table tells nobody of its changes.
func (t *tables) poll(told bool) time.Duration {
	if !told || len(t.v4) == 0 {
		return t.unasked
	}
	for _, p := range slices.Concat(t.v4, t.v6) {
		if p.legacy && p.touched(filterTable) {
			return t.unasked
		}
	}
	return eventPoll
}

func (t *tables) close() {}
