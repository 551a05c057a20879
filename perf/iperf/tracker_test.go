// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestTracker(t *testing.T) {
	for _, tt := range []struct {
		name          string
		seqs          []uint64
		lost, reorder uint64
		highest       uint64
	}{
		{"in order", []uint64{1, 2, 3, 4}, 0, 0, 4},
		{"first missing", []uint64{2, 3}, 1, 0, 3},
		{"gap", []uint64{1, 2, 6, 7}, 3, 0, 7},
		{"swapped", []uint64{1, 3, 2, 4}, 0, 1, 4},
		{"late after a gap", []uint64{1, 5, 3, 6}, 2, 1, 6},
		{"duplicate", []uint64{1, 2, 2, 3}, 0, 1, 3},
		{"duplicate after a loss", []uint64{1, 3, 3}, 0, 1, 3},
		{"nonsense", []uint64{1, 1 << 60, 2}, 0, 1, 2},
	} {
		var tr Tracker
		for i, s := range tt.seqs {
			at := time.Duration(i) * time.Millisecond
			tr.Add(s, at, at+time.Second)
		}
		if tr.Lost != tt.lost || tr.OutOfOrder != tt.reorder || tr.Highest != tt.highest || tr.Received != uint64(len(tt.seqs)) {
			t.Errorf("%s: %+v, want lost %d, out of order %d, highest %d", tt.name, tr, tt.lost, tt.reorder, tt.highest)
		}
		if tr.Jitter != 0 {
			t.Errorf("%s: jitter %v of a constant transit time", tt.name, tr.Jitter)
		}
	}
}

// TestJitter follows the example of RFC 1889 appendix A.8 by hand: transit times
// 10, 12, 11 ms give |D| of 2 and 1 ms.
func TestJitter(t *testing.T) {
	var tr Tracker
	tr.Add(1, 0, 10*time.Millisecond)
	tr.Add(2, 20*time.Millisecond, 32*time.Millisecond)
	if want := 0.002 / 16; math.Abs(tr.Jitter-want) > 1e-12 {
		t.Errorf("after two: %v, want %v", tr.Jitter, want)
	}
	tr.Add(3, 40*time.Millisecond, 51*time.Millisecond)
	want := 0.002/16 + (0.001-0.002/16)/16
	if math.Abs(tr.Jitter-want) > 1e-12 {
		t.Errorf("after three: %v, want %v", tr.Jitter, want)
	}
	// A sender's clock that is far off changes nothing.
	var off Tracker
	for i, transit := range []time.Duration{10, 12, 11} {
		sent := time.Duration(i) * 20 * time.Millisecond
		off.Add(uint64(i+1), sent+1000*time.Hour, sent+transit*time.Millisecond)
	}
	if math.Abs(off.Jitter-want) > 1e-12 {
		t.Errorf("with another clock: %v, want %v", off.Jitter, want)
	}
}

// TestTrackerModel judges the tracker by one that remembers every number, for
// what the network may do without duplicating: lose and reorder.
func TestTrackerModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(t, "sent")
		order := rapid.Permutation(seqs(n)).Draw(t, "order")
		arrive := order[:rapid.IntRange(1, n).Draw(t, "arrived")]
		var tr Tracker
		for _, s := range arrive {
			tr.Add(s, 0, 0)
		}
		highest := slices.Max(arrive)
		lost := highest - uint64(len(arrive))
		late := uint64(0)
		top := uint64(0)
		for _, s := range arrive {
			if s < top {
				late++
			}
			top = max(top, s)
		}
		if tr.Highest != highest || tr.Lost != lost || tr.OutOfOrder != late || tr.Received != uint64(len(arrive)) {
			t.Fatalf("%v: %+v, want highest %d, lost %d, out of order %d", arrive, tr, highest, lost, late)
		}
	})
}

func seqs(n int) []uint64 {
	s := make([]uint64, n)
	for i := range s {
		s[i] = uint64(i + 1)
	}
	return s
}

func TestTrackerAllocs(t *testing.T) {
	var tr Tracker
	if n := testing.AllocsPerRun(100, func() { tr.Add(tr.Highest+1, 1, 2) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
