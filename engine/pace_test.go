// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1, 0)
	p.look(now, 0, 0) // since the worker began
	var frames, bytes uint64
	for _, step := range []struct {
		what          string
		after         time.Duration
		frames, bytes uint64
		bulk          bool
	}{
		{"one conversation", 10 * time.Millisecond, 900, 90_000, false},
		{"a stream of 4 Gbit/s in super-frames", 10 * time.Millisecond, 100, 5_000_000, true},
		{"too soon to tell", 100 * time.Microsecond, 0, 0, true},
		{"a bit slower", 10 * time.Millisecond, 60, 400_000, true},
		{"much slower", 10 * time.Millisecond, 40, 300_000, false},
		{"a bit faster again", 10 * time.Millisecond, 60, 400_000, false},
		{"a flood of small frames", 10 * time.Millisecond, 2000, 128_000, true},
		{"half of it", 10 * time.Millisecond, 800, 50_000, true},
		{"a tenth", 10 * time.Millisecond, 200, 12_800, false},
	} {
		now = now.Add(step.after)
		frames, bytes = frames+step.frames, bytes+step.bytes
		if p.look(now, frames, bytes); p.bulk != step.bulk {
			t.Errorf("%s: bulk is %v", step.what, p.bulk)
		}
	}
	p.bulk = true
	if p.idle(); p.bulk {
		t.Error("idle, and still bulk")
	}
	for i := range paceWaits {
		if p.due() != (i == paceWaits-1) {
			t.Fatalf("wait %d of %d", i, paceWaits)
		}
	}
}
