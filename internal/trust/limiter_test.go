// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"net/netip"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	now := time.Unix(0, 0)
	l := NewLimiter(3, time.Second, func() time.Time { return now })
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	count := func(a netip.Addr, tries int) (n int) {
		for range tries {
			if l.Allow(a) {
				n++
			}
		}
		return n
	}
	if l.Exhausted(a) || count(a, 10) != 3 || !l.Exhausted(a) || l.Exhausted(b) || count(b, 10) != 3 {
		t.Error("the burst is not 3 for each")
	}
	now = now.Add(2 * time.Second)
	if l.Exhausted(a) || count(a, 10) != 2 {
		t.Error("two seconds are not two more")
	}
	now = now.Add(time.Hour)
	if count(a, 10) != 3 {
		t.Error("saved up more than the burst")
	}
	// One machine has a /64, whatever it calls itself.
	if n := count(netip.MustParseAddr("2001:db8::1"), 2) + count(netip.MustParseAddr("2001:db8::2%eth0"), 2) + count(netip.MustParseAddr("2001:db8:0:1::1"), 2); n != 5 {
		t.Errorf("%d of one /64 and its neighbour", n)
	}
	if n := count(netip.MustParseAddr("::ffff:192.0.2.1"), 1); n != 0 {
		t.Error("an IPv4 address in IPv6 form is somebody else")
	}
	// The zero address is one subject like others.
	if n := count(netip.Addr{}, 4); n != 3 {
		t.Errorf("%d of nobody", n)
	}
}

func TestLimiterForgets(t *testing.T) {
	now := time.Unix(0, 0)
	l := NewLimiter(1, time.Hour, func() time.Time { return now })
	l.room = 4
	at := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }
	for i := range 1000 {
		l.Allow(at(0)) // never quiet for long
		l.Allow(at(i + 1))
	}
	if len(l.seen) != 4 || l.order.Len() != 4 || !l.Exhausted(at(0)) || !l.Exhausted(at(1000)) || l.Exhausted(at(1)) {
		t.Errorf("%d are remembered", len(l.seen))
	}
}
