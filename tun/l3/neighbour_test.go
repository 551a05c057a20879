// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// cache is a table whose doings are written down.
type cache struct {
	table
	log   []string
	start time.Time
}

func newCache() *cache {
	c := &cache{start: time.Unix(1e9, 0)}
	c.table = table{entries: map[netip.Addr]*neighbour{},
		ask: func(n *neighbour) {
			how := "one"
			if n.group {
				how = "all"
			}
			c.log = append(c.log, fmt.Sprintf("ask %s %s", how, n.addr))
		},
		release: func(n *neighbour) { c.log = append(c.log, fmt.Sprintf("release %d", len(n.waiting))) },
		fail:    func(d Drop, f [][]byte) { c.log = append(c.log, fmt.Sprintf("fail %d %s", len(f), d)) },
	}
	return c
}

func (c *cache) at(s float64) time.Time { return c.start.Add(time.Duration(s * 1e9)) }

func (c *cache) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(c.log, want) {
		t.Fatalf("did %q, want %q", c.log, want)
	}
	c.log = nil
}

func (c *cache) consistent(t *testing.T) {
	t.Helper()
	n := 0
	for _, l := range []list{c.used, c.learned} {
		var last *neighbour
		for e := l.head; e != nil; e = e.next {
			if e.prev != last || c.entries[e.addr] != e || e.asking && c.table.asking[e.slot] != e {
				t.Fatalf("%s is linked wrongly", e.addr)
			}
			last = e
			n++
		}
		if l.tail != last {
			t.Fatal("the list's tail is wrong")
		}
	}
	if n != len(c.entries) {
		t.Fatalf("%d in lists, %d in the table", n, len(c.entries))
	}
}

func reply(mac [6]byte) *message {
	return &message{answer: true, toUs: true, override: true, target: peer4, mac: mac, known: true}
}

func TestResolveRetryAndGiveUp(t *testing.T) {
	c := newCache()
	n := c.resolve(peer4, our4, c.at(0))
	if n.known {
		t.Fatal("known from nowhere")
	}
	c.wait(n, make([]byte, 100))
	c.expect(t, "ask all 10.1.0.1")
	for _, s := range []float64{0.5, 0.999} {
		c.resolve(peer4, our4, c.at(s))
		c.tick(c.at(s))
	}
	c.expect(t)
	if next, ok := c.tick(c.at(1)); !ok || next != c.at(2) {
		t.Errorf("next tick at %v, %v", next, ok)
	}
	c.tick(c.at(2))
	c.expect(t, "ask all 10.1.0.1", "ask all 10.1.0.1")
	if _, ok := c.tick(c.at(3)); ok {
		t.Error("still asking")
	}
	c.expect(t, "fail 1 unresolved")
	if len(c.entries) != 0 || c.bytes != 0 || c.packets != 0 {
		t.Errorf("%d entries, %d bytes, %d packets left", len(c.entries), c.bytes, c.packets)
	}
	c.resolve(peer4, our4, c.at(3))
	c.expect(t, "ask all 10.1.0.1") // the next packet tries anew
}

func TestReachability(t *testing.T) {
	c := newCache()
	n := c.resolve(peer4, our4, c.at(0))
	c.wait(n, make([]byte, 100))
	c.wait(n, make([]byte, 100))
	if !c.answered(reply(peerMAC), c.at(0.1)) {
		t.Fatal("the answer was not taken")
	}
	c.expect(t, "ask all 10.1.0.1", "release 2")
	if c.bytes != 0 || c.packets != 0 {
		t.Error("what was released still counts as waiting")
	}
	// Fresh: nothing is asked. Old: used, and asked by unicast.
	c.resolve(peer4, our4, c.at(30.1))
	c.expect(t)
	if n := c.resolve(peer4, our4, c.at(31)); !n.known || n.mac != peerMAC {
		t.Error("what is old is not used meanwhile")
	}
	c.expect(t, "ask one 10.1.0.1")
	c.answered(reply(peerMAC), c.at(31.1))
	c.tick(c.at(40))
	c.resolve(peer4, our4, c.at(60))
	c.expect(t)
	// No answer: everybody is asked, and a new station takes over.
	c.resolve(peer4, our4, c.at(62))
	c.tick(c.at(63))
	c.expect(t, "ask one 10.1.0.1", "ask all 10.1.0.1")
	c.answered(reply(otherMAC), c.at(63.1))
	if n := c.resolve(peer4, our4, c.at(64)); n.mac != otherMAC {
		t.Error("the new station was not taken")
	}
	// No answer at all: forgotten.
	c.resolve(peer4, our4, c.at(100))
	c.tick(c.at(101))
	c.tick(c.at(102))
	c.tick(c.at(103))
	if len(c.entries) != 0 {
		t.Error("not forgotten")
	}
	c.log = nil
	// Too old to be tried.
	c.resolve(peer4, our4, c.at(200))
	c.answered(reply(peerMAC), c.at(200))
	if n := c.resolve(peer4, our4, c.at(801)); n.known {
		t.Error("tried after more than ten minutes")
	}
	c.expect(t, "ask all 10.1.0.1", "ask all 10.1.0.1")
	c.consistent(t)
}

func TestLearnsOnlyWhatItAskedOrWasAsked(t *testing.T) {
	c := newCache()
	if c.answered(reply(peerMAC), c.at(0)) || len(c.entries) != 0 {
		t.Error("an answer without a question was taken")
	}
	c.contradicted(peer4, peerMAC, c.at(0))
	if len(c.entries) != 0 {
		t.Error("an announcement was learned")
	}
	// A request to us teaches, and is asked back when used.
	c.asked(peer4, peerMAC, c.at(0))
	c.expect(t)
	if n := c.resolve(peer4, our4, c.at(1)); !n.known || n.mac != peerMAC {
		t.Error("a request to us taught nothing")
	}
	c.expect(t, "ask one 10.1.0.1")
	c.answered(reply(peerMAC), c.at(1))
	if c.answered(reply(otherMAC), c.at(1)) {
		t.Error("a second answer was taken")
	}
	// An announcement that contradicts what is known changes nothing, but makes
	// us ask everybody.
	c.contradicted(peer4, peerMAC, c.at(2))
	c.expect(t)
	c.contradicted(peer4, otherMAC, c.at(2))
	c.contradicted(peer4, otherMAC, c.at(2))
	c.expect(t, "ask all 10.1.0.1")
	if n := c.resolve(peer4, our4, c.at(2)); n.mac != peerMAC {
		t.Error("an announcement was believed")
	}
	weak := reply(otherMAC)
	weak.override = false
	if c.answered(weak, c.at(2)) {
		t.Error("an answer without the override flag replaced an address")
	}
	c.answered(&message{answer: true, toUs: true, target: peer4}, c.at(2)) // names no MAC: confirms
	c.tick(c.at(5))
	c.expect(t)
	// A request to us from elsewhere is believed, and asked back.
	c.asked(peer4, otherMAC, c.at(6))
	if n := c.resolve(peer4, our4, c.at(6)); n.mac != otherMAC {
		t.Error("a neighbour that moved is not believed")
	}
	c.expect(t, "ask one 10.1.0.1")
	c.consistent(t)
}

func nthAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}) }

func TestBounds(t *testing.T) {
	c := newCache()
	n := c.resolve(peer4, our4, c.at(0))
	for range maxWaiting + 5 {
		c.wait(n, make([]byte, 1000))
	}
	if len(n.waiting) != maxWaiting || c.packets != maxWaiting || c.bytes != maxWaiting*1000 {
		t.Errorf("%d wait, counted %d packets and %d bytes", len(n.waiting), c.packets, c.bytes)
	}
	for i := range 100 {
		n := c.resolve(nthAddr(i), our4, c.at(0))
		for range maxWaiting {
			c.wait(n, make([]byte, 1000))
		}
	}
	if c.bytes > maxWaitingBytes {
		t.Errorf("%d bytes wait", c.bytes)
	}
	for i := range 3 * maxNeighbours {
		c.resolve(nthAddr(i), our4, c.at(0))
	}
	if len(c.entries) != maxNeighbours || len(c.table.asking) != maxNeighbours || c.bytes != 0 {
		t.Errorf("%d entries, %d asking, %d bytes", len(c.entries), len(c.table.asking), c.bytes)
	}
	c.consistent(t)

	// Strangers who ask for us do not push out anybody that we talk to.
	c = newCache()
	c.resolve(peer4, our4, c.at(0))
	c.answered(reply(peerMAC), c.at(0))
	for i := range 3 * maxNeighbours {
		c.asked(nthAddr(i), otherMAC, c.at(1))
	}
	if n := c.entries[peer4]; n == nil || len(c.entries) != maxNeighbours {
		t.Errorf("%d entries, with the peer: %v", len(c.entries), n != nil)
	}
	for i := range maxNeighbours {
		c.resolve(nthAddr(i), our4, c.at(1)) // all used now
	}
	c.asked(nthAddr(5000), otherMAC, c.at(1))
	if c.entries[nthAddr(5000)] != nil {
		t.Error("a stranger pushed out a neighbour in use")
	}
	c.consistent(t)
}
