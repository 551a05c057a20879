// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kohaku/internal/lab"
)

// cable makes two machines, a 192.0.2.1 and b 192.0.2.2, on a switch.
func cable(t *testing.T) *lab.Underlay {
	t.Helper()
	n, err := lab.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	u, err := n.Underlay(t.Context(), lab.UnderlayConfig{Names: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestPing(t *testing.T) {
	u := cable(t)
	r, err := ping(t.Context(), u.Hosts[0], u.Hosts[1].V4, 3)
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 3 || r.Received != 3 || r.Min <= 0 || r.Min > r.Avg || r.Avg > r.Max {
		t.Errorf("ping of a neighbour: %+v", r)
	}
	r, err = ping(t.Context(), u.Hosts[0], netip.MustParseAddr("192.0.2.99"), 1)
	if err != nil {
		t.Fatal(err)
	}
	if r.Sent != 1 || r.Received != 0 || !strings.Contains(r.String(), "no answer") {
		t.Errorf("ping of nobody: %+v, %s", r, r)
	}
	if _, err := ping(t.Context(), u.Hosts[0], netip.MustParseAddr("198.51.100.1"), 1); err == nil {
		t.Error("ping without a route: no error")
	}
}

func TestPingStopsWithItsContext(t *testing.T) {
	u := cable(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ping(ctx, u.Hosts[0], u.Hosts[1].V4, 1000); err == nil {
		t.Error("no error")
	}
}

func TestTransfer(t *testing.T) {
	u := cable(t)
	const size = 3<<20 + 17 // no multiple of a block
	r, err := transfer(t.Context(), u.Hosts[0], u.Hosts[1], netip.AddrPortFrom(u.Hosts[1].V4, 5001), size, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if r.Bytes != size || r.Sent != r.Received || len(r.Sent) != 64 || r.BitsPerSecond() <= 0 {
		t.Errorf("%+v", r)
	}
}

func TestTransferToNobody(t *testing.T) {
	u := cable(t)
	// The listener is on b, at an address that a cannot reach.
	if err := u.Hosts[1].AddAddr("lo", netip.MustParsePrefix("198.51.100.1/32")); err != nil {
		t.Fatal(err)
	}
	_, err := transfer(t.Context(), u.Hosts[0], u.Hosts[1], netip.MustParseAddrPort("198.51.100.1:5001"), 1, time.Second)
	if err == nil {
		t.Error("no error")
	}
}

func TestSendHashesWhatItSends(t *testing.T) {
	a, b := net.Pipe()
	defer b.Close()
	sums := make(chan string, 2)
	for range 2 {
		go func() {
			buf := make([]byte, 1<<20)
			for {
				if _, err := b.Read(buf); err != nil {
					return
				}
			}
		}()
		sum, n, err := send(a, 1<<20, time.Now().Add(time.Minute))
		if err != nil || n != 1<<20 {
			t.Fatal(n, err)
		}
		sums <- sum
	}
	a.Close()
	if x, y := <-sums, <-sums; x == y {
		t.Error("two streams with the same contents: a repeated stream would not be noticed")
	}
}

func TestSeenFrom(t *testing.T) {
	u := cable(t)
	got, err := seenFrom(t.Context(), u.Hosts[0], u.Hosts[1], netip.AddrPortFrom(u.Hosts[1].V4, 7777))
	if err != nil {
		t.Fatal(err)
	}
	if got != u.Hosts[0].V4 {
		t.Errorf("seen as %s, want %s", got, u.Hosts[0].V4)
	}
}

func TestWatch(t *testing.T) {
	u := cable(t)
	seen, err := watch(u.Hosts[1].AtPort, 4789, func() error {
		return u.Hosts[0].Do(func() error {
			c, err := net.Dial("udp4", netip.AddrPortFrom(u.Hosts[1].V4, 4789).String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(vxlanPayload)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 {
		t.Fatalf("%d datagrams, want 1: %v", len(seen), seen)
	}
	o := seen[0]
	if o.From.Addr != u.Hosts[0].V4 || o.To.Addr != u.Hosts[1].V4 || o.To.Port != 4789 || o.VNI != 0x010203 ||
		o.InnerFrom.Addr != netip.MustParseAddr("10.1.0.2") || o.InnerTo.Addr != netip.MustParseAddr("10.2.0.2") {
		t.Errorf("%+v", o)
	}
}
