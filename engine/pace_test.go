// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1, 0)
	p.look(now, load{}) // since the worker began
	var l load
	for _, step := range []struct {
		what          string
		after         time.Duration
		frames, bytes uint64
		messages      uint64
		bulk, singles bool
	}{
		{"one conversation", 10 * time.Millisecond, 900, 90_000, 400, false, false},
		{"a stream of 4 Gbit/s in super-frames", 10 * time.Millisecond, 100, 5_000_000, 100, true, false},
		{"too soon to tell", 100 * time.Microsecond, 0, 0, 0, true, false},
		{"a bit slower", 10 * time.Millisecond, 60, 400_000, 60, true, false},
		{"much slower", 10 * time.Millisecond, 40, 300_000, 40, false, false},
		{"a bit faster again", 10 * time.Millisecond, 60, 400_000, 60, false, false},
		{"a flood of small frames", 10 * time.Millisecond, 2000, 128_000, 50, true, false},
		{"the same one by one", 10 * time.Millisecond, 2000, 128_000, 2000, true, true},
		{"half of it", 10 * time.Millisecond, 1000, 50_000, 1000, true, true},
		{"half of it, most of it merged", 10 * time.Millisecond, 1000, 50_000, 700, true, false},
		{"a tenth", 10 * time.Millisecond, 200, 12_800, 200, false, false},
	} {
		now = now.Add(step.after)
		l.frames, l.bytes, l.messages = l.frames+step.frames, l.bytes+step.bytes, l.messages+step.messages
		if p.look(now, l); p.bulk != step.bulk || p.singles != step.singles {
			t.Errorf("%s: bulk is %v, one by one %v", step.what, p.bulk, p.singles)
		}
	}
	p.bulk, p.singles, p.strain = true, true, true
	if p.idle(); p.bulk || p.singles || p.strain {
		t.Error("idle, and still bulk")
	}
	for i := range paceWaits {
		if p.due() != (i == paceWaits-1) {
			t.Fatalf("wait %d of %d", i, paceWaits)
		}
	}
}

func TestPaceStrain(t *testing.T) {
	var p pace
	now := time.Unix(1, 0)
	if p.look(now, load{}); p.strain {
		t.Error("strain at the begin")
	}
	for _, step := range []struct {
		after, rest time.Duration
		strain      bool
	}{
		{10 * time.Millisecond, 6 * time.Millisecond, false},
		{10 * time.Millisecond, 4 * time.Millisecond, true},
		{100 * time.Microsecond, 100 * time.Microsecond, true}, // too soon to tell; it counts next time
		{9900 * time.Microsecond, 7 * time.Millisecond, true},
		{10 * time.Millisecond, 8 * time.Millisecond, false},
		{10 * time.Millisecond, 6 * time.Millisecond, false},
	} {
		now = now.Add(step.after)
		p.rest += step.rest
		if p.look(now, load{}); p.strain != step.strain {
			t.Errorf("%v of %v at rest: strain is %v", step.rest, step.after, p.strain)
		}
	}
}
