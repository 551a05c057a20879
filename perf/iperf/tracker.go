// SPDX-License-Identifier: Apache-2.0

package iperf

import "time"

// Tracker counts what a receiver of test datagrams sees, the way iperf3 does,
// so that both ends report the same figures. It keeps no history: a duplicate
// counts as out of order, and one that arrives late gives back one loss. The
// zero value is ready. It is not safe for concurrent use and does not allocate.
type Tracker struct {
	Highest    uint64  // highest sequence number seen; sequences count from 1
	Lost       uint64  // gaps, less the datagrams that came late after all
	OutOfOrder uint64  // sequence numbers that went back or stood still
	Received   uint64  // datagrams, duplicates included
	Jitter     float64 // seconds, RFC 1889 sections 6.3.1 and A.8

	transit time.Duration
	started bool
}

// maxGap bounds the loss that one datagram may declare. Beyond it the sequence
// number is nonsense (a stray datagram), not a gap: at this many datagrams
// between two received ones no link would still be called working.
const maxGap = 1 << 32

// Add accounts for one datagram that was sent and arrived at the given times,
// each on its own clock. It reports false for a sequence number that cannot be
// meant, which is counted as out of order.
func (t *Tracker) Add(seq uint64, sent, arrived time.Duration) bool {
	t.Received++
	switch {
	case seq > t.Highest && seq-t.Highest > maxGap:
		t.OutOfOrder++
		return false
	case seq > t.Highest:
		t.Lost += seq - t.Highest - 1
		t.Highest = seq
	default:
		t.OutOfOrder++
		if t.Lost > 0 {
			t.Lost--
		}
	}
	transit := arrived - sent
	if t.started {
		d := transit - t.transit
		if d < 0 {
			d = -d
		}
		t.Jitter += (d.Seconds() - t.Jitter) / 16
	}
	t.started = true
	t.transit = transit
	return true
}
