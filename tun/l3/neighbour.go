// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"net/netip"
	"time"
)

// Timing (RFC 4861 section 10, also used for ARP).
const (
	retransTimer  = time.Second
	maxSolicit    = 3
	reachableTime = 30 * time.Second
	// forgetAfter is how long an address that nobody confirmed is still tried
	// while it is asked for anew.
	forgetAfter = 10 * time.Minute
)

// Bounds of the table.
const (
	maxNeighbours   = 1024
	maxWaiting      = 64      // packets for one neighbour
	maxWaitingBytes = 1 << 20 // for all
)

// A neighbour is one entry. Without known it only has packets waiting.
type neighbour struct {
	addr  netip.Addr
	mac   [6]byte
	known bool
	used  bool // we sent to it; one that only sent to us is worth less

	confirmed time.Time // last answer to a request of ours
	updated   time.Time // last time that mac was learned or confirmed

	// While a request is out:
	asking bool
	group  bool // ask all, not only the station that is known
	asked  int
	retry  time.Time
	from   netip.Addr // to send the request from, if it is ours

	waiting [][]byte // whole frames but for the destination's MAC address

	prev, next *neighbour // in the list of its kind, most recently used first
	slot       int        // in table.asking
}

// list is an intrusive doubly linked list.
type list struct{ head, tail *neighbour }

func (l *list) pushFront(n *neighbour) {
	n.prev, n.next = nil, l.head
	if l.head != nil {
		l.head.prev = n
	} else {
		l.tail = n
	}
	l.head = n
}

func (l *list) remove(n *neighbour) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.head = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.tail = n.prev
	}
	n.prev, n.next = nil, nil
}

// table is the neighbour cache: a state machine that is told the time and asks
// its owner, through the functions, to send. Not for concurrent use.
type table struct {
	entries map[netip.Addr]*neighbour
	// Entries that we sent to, and those that we only learned. Room is made
	// among the latter first, so that strangers who ask for us cannot push out
	// those whom we talk to.
	used, learned list
	asking        []*neighbour
	bytes         int // of what waits
	packets       int

	ask     func(n *neighbour)            // send a request for n.addr
	release func(n *neighbour)            // n.waiting can be sent to n.mac
	fail    func(d Drop, frames [][]byte) // these will not be sent
}

// resolve returns the entry of addr, with known set when packets can be sent to
// its mac now. It sends requests as needed; from is the source of the packet.
func (t *table) resolve(addr, from netip.Addr, now time.Time) *neighbour {
	n := t.entries[addr]
	if n != nil && n.known && now.Sub(n.updated) > forgetAfter && !n.asking {
		t.remove(n)
		n = nil
	}
	if n == nil {
		n = t.insert(addr, true)
	}
	if !n.used {
		t.learned.remove(n)
		n.used = true
		t.used.pushFront(n)
	} else if t.used.head != n {
		t.used.remove(n)
		t.used.pushFront(n)
	}
	if !n.asking && (!n.known || now.Sub(n.confirmed) > reachableTime) {
		n.from = from
		t.start(n, !n.known, now)
	}
	return n
}

// wait keeps a frame until n is known. It takes ownership of frame.
func (t *table) wait(n *neighbour, frame []byte) {
	if len(n.waiting) == maxWaiting {
		// The newest is worth most (RFC 4861 section 7.2.2).
		t.bytes -= len(n.waiting[0])
		t.packets--
		t.fail(DropWaitFull, n.waiting[:1])
		n.waiting = append(n.waiting[:0], n.waiting[1:]...)
	}
	if t.bytes+len(frame) > maxWaitingBytes {
		t.fail(DropWaitFull, [][]byte{frame})
		return
	}
	n.waiting = append(n.waiting, frame)
	t.bytes += len(frame)
	t.packets++
}

// answered takes an answer to a request of ours (RFC 4861 section 7.2.5). It
// reports false when it is of no use: nothing was asked, it names no MAC
// address and none is known, or it names another one and may not override.
func (t *table) answered(m *message, now time.Time) bool {
	n := t.entries[m.target]
	if n == nil || !n.asking || !m.known && !n.known || m.known && n.known && m.mac != n.mac && !m.override {
		return false
	}
	if m.known {
		n.mac = m.mac
	}
	n.known = true
	n.confirmed, n.updated = now, now
	t.stop(n)
	t.flush(n)
	return true
}

// asked takes the sender of a request that was addressed to us (RFC 826, RFC
// 4861 section 7.2.3). One that has moved is believed, and asked at its new
// place when it is next used.
func (t *table) asked(addr netip.Addr, mac [6]byte, now time.Time) {
	n := t.entries[addr]
	if n == nil {
		if n = t.insert(addr, false); n == nil {
			return
		}
	}
	if n.mac != mac {
		n.confirmed = time.Time{}
	}
	n.mac, n.known, n.updated = mac, true, now
	t.flush(n)
}

// contradicted takes an announcement. Nothing is learned from it, but when it
// differs from what is known everybody is asked.
func (t *table) contradicted(addr netip.Addr, mac [6]byte, now time.Time) {
	n := t.entries[addr]
	if n == nil || !n.known || n.mac == mac || n.asking && n.group {
		return
	}
	t.stop(n)
	t.start(n, true, now)
}

// tick repeats requests and gives up on neighbours. It returns when to call
// again; false when no request is out.
func (t *table) tick(now time.Time) (next time.Time, any bool) {
	for i := 0; i < len(t.asking); {
		n := t.asking[i]
		if n.retry.After(now) {
			i++
			continue
		}
		if n.asked == maxSolicit {
			t.drop(n, DropUnresolved)
			continue // another one stands at i now
		}
		// A station that does not answer may have a new address.
		n.group = true
		t.send(n, now)
		i++
	}
	for i, n := range t.asking {
		if i == 0 || n.retry.Before(next) {
			next = n.retry
		}
	}
	return next, len(t.asking) > 0
}

func (t *table) start(n *neighbour, group bool, now time.Time) {
	n.asking, n.group, n.asked = true, group, 0
	n.slot = len(t.asking)
	t.asking = append(t.asking, n)
	t.send(n, now)
}

func (t *table) send(n *neighbour, now time.Time) {
	n.asked++
	n.retry = now.Add(retransTimer)
	t.ask(n)
}

func (t *table) stop(n *neighbour) {
	if !n.asking {
		return
	}
	n.asking = false
	last := len(t.asking) - 1
	t.asking[n.slot] = t.asking[last]
	t.asking[n.slot].slot = n.slot
	t.asking[last] = nil
	t.asking = t.asking[:last]
}

// flush releases what waits.
func (t *table) flush(n *neighbour) {
	if len(n.waiting) > 0 {
		t.release(n)
		t.unwait(n)
	}
}

func (t *table) unwait(n *neighbour) {
	for _, f := range n.waiting {
		t.bytes -= len(f)
	}
	t.packets -= len(n.waiting)
	n.waiting = nil
}

// insert makes an entry, and room for it. For one that is only learned room is
// not made at the cost of those that are used: it returns nil then.
func (t *table) insert(addr netip.Addr, used bool) *neighbour {
	if len(t.entries) >= maxNeighbours {
		switch {
		case t.learned.tail != nil:
			t.drop(t.learned.tail, DropTableFull)
		case used:
			t.drop(t.used.tail, DropTableFull)
		default:
			return nil
		}
	}
	n := &neighbour{addr: addr, used: used}
	t.entries[addr] = n
	if used {
		t.used.pushFront(n)
	} else {
		t.learned.pushFront(n)
	}
	return n
}

// drop forgets an entry and what waits for it.
func (t *table) drop(n *neighbour, why Drop) {
	if len(n.waiting) > 0 {
		frames := n.waiting
		t.unwait(n)
		t.fail(why, frames)
	}
	t.remove(n)
}

func (t *table) remove(n *neighbour) {
	t.stop(n)
	t.unwait(n)
	if n.used {
		t.used.remove(n)
	} else {
		t.learned.remove(n)
	}
	delete(t.entries, n.addr)
}
