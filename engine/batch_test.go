// SPDX-License-Identifier: Apache-2.0

package engine

import "testing"

func TestBatchAfter(t *testing.T) {
	for _, c := range []struct{ n, bytes, want int }{
		{64, 64 * 64, 64},          // small datagrams
		{64, 64 * 1500, 64},        // plain ones
		{64, 64 * 64000, 4},        // super-frames
		{4, 4 * 64000, 4},          // the same, already taken in small batches
		{4, 4 * 16000, 16},         // shorter ones
		{4, 4 * 100, 64},           // small ones again
		{4, 3*64000 + 100, 5},      // of both kinds
		{1, 0, 64},                 // an empty datagram
		{64, 64 * rxBuffer * 2, 4}, // no fewer, whatever comes
	} {
		if got := batchAfter(c.n, c.bytes); got != c.want {
			t.Errorf("after %d messages of %d bytes: %d, want %d", c.n, c.bytes, got, c.want)
		}
	}
}

// TestBatchKeepsOrder has more super-frames wait in a socket than one call takes,
// and small datagrams behind them.
func TestBatchKeepsOrder(t *testing.T) {
	w := make([]byte, 60000)
	s := boundSocket(t)
	r := newReceiver(&Engine{}, 0, &stages{})
	const long, short = 20, 100
	for i := range long + short {
		d := w
		if i >= long {
			d = w[:100]
		}
		d[0] = byte(i)
		sendBytes(t, s, d)
	}
	var got int
	for got < long+short {
		n, e := recvmmsg(s.fd, r.in, r.batch)
		if e != 0 {
			t.Fatalf("after %d datagrams: %v", got, e)
		}
		if n > r.batch {
			t.Fatalf("asked for %d, got %d", r.batch, n)
		}
		bytes := 0
		for i := range n {
			m := r.in.at(i)
			if m.data[0] != byte(got) {
				t.Fatalf("datagram %d is %d", got, m.data[0])
			}
			bytes += len(m.data)
			got++
		}
		r.batch = batchAfter(n, bytes)
	}
	if r.batch != rxMessages {
		t.Errorf("after small datagrams the next batch is of %d", r.batch)
	}
}
