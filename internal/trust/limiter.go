// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limiter allows each address a number of events at once and more at a steady
// rate. It forgets who was quiet for the longest time when there are too many. It
// is safe for concurrent use.
type Limiter struct {
	// Constant.
	every time.Duration
	burst int
	room  int
	now   func() time.Time

	mu    sync.Mutex
	seen  map[netip.Prefix]*list.Element
	order list.List // of *limited, the latest in front
}

type limited struct {
	who   netip.Prefix
	limit *rate.Limiter
}

// maxLimited is how many addresses a Limiter remembers.
const maxLimited = 4096

// NewLimiter allows burst events at once, and one more in each period.
func NewLimiter(burst int, every time.Duration, now func() time.Time) *Limiter {
	return &Limiter{every: every, burst: burst, room: maxLimited, now: now, seen: make(map[netip.Prefix]*list.Element)}
}

// Allow counts an event of an address and reports whether it is within bounds.
func (l *Limiter) Allow(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of(a).AllowN(l.now(), 1)
}

// Exhausted reports whether the next event would be out of bounds.
func (l *Limiter) Exhausted(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.seen[subject(a)]
	return ok && e.Value.(*limited).limit.TokensAt(l.now()) < 1
}

// of gives the bounds of an address. Guarded by mu.
func (l *Limiter) of(a netip.Addr) *rate.Limiter {
	who := subject(a)
	if e, ok := l.seen[who]; ok {
		l.order.MoveToFront(e)
		return e.Value.(*limited).limit
	}
	if l.order.Len() >= l.room {
		last := l.order.Back()
		delete(l.seen, last.Value.(*limited).who)
		l.order.Remove(last)
	}
	e := l.order.PushFront(&limited{who, rate.NewLimiter(rate.Every(l.every), l.burst)})
	l.seen[who] = e
	return e.Value.(*limited).limit
}

// subject is who is meant by an address: one machine may have all of an IPv6 /64
// (RFC 4291 section 2.5.1).
func subject(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil { // the zero Addr
		return netip.Prefix{}
	}
	return p
}
