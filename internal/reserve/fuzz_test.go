// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"net/netip"
	"testing"
	"time"
)

// No text but a token that was signed is taken for one, and it says what was signed.
func FuzzToken(f *testing.F) {
	key := Key{1, 2, 3}
	want := claims{ID: ID{9}, Runner: "node1", Addr: netip.MustParseAddr("10.1.0.9"), Name: "web", Ends: 1}
	good := key.sign(want)
	f.Add(good)
	f.Add(good[:40])
	f.Add(tokenPrefix)
	f.Add(Key{4}.sign(want))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := key.verify(text)
		if (err == nil) != (text == good) || err == nil && c != want {
			t.Fatalf("%q: %+v, %v", text, c, err)
		}
		if err != nil && kindOf(err) != BadToken {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

// Whatever the file holds is refused whole, or taken and written as the same again.
func FuzzFile(f *testing.F) {
	now := Instant{Boot: "b", At: time.Hour}
	a := netip.MustParseAddr("10.1.0.9")
	leases := map[netip.Addr]*lease{a: {id: ID{1}, runner: "node1", addr: a, name: "web", ttl: time.Minute, end: now.At + time.Second}}
	f.Add(encode(Key{1}, leases, now))
	leases[a].inUse = true
	f.Add(encode(Key{1}, leases, Instant{Boot: "c", At: 1}))
	f.Add(encode(Key{}, nil, now))
	f.Add([]byte(`{"version": 1}`))
	f.Add([]byte(`{"version": 2}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		key, leases, err := decode(data, now)
		if err != nil {
			return
		}
		if len(leases) > MaxTotal {
			t.Fatalf("%d leases", len(leases))
		}
		for at, l := range leases {
			if left := l.left(now.At); at != l.addr || !at.Is4() || left <= 0 || left > l.ttl || l.ttl > MaxTTL || CheckName(l.name) != nil {
				t.Fatalf("lease %+v", l)
			}
		}
		key2, again, err := decode(encode(key, leases, now), now)
		if err != nil || key2 != key || len(again) != len(leases) {
			t.Fatalf("%d leases came back as %d: %v", len(leases), len(again), err)
		}
		for at, l := range leases {
			if *again[at] != *l {
				t.Fatalf("%+v came back as %+v", l, again[at])
			}
		}
	})
}
