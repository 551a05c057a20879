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
		p.rest = step.after * 9 / 10
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

// TestPaceBusy asserts that a worker which is woken for each of many frames, and is
// hardly at rest, carries bulk, and that a conversation does not.
func TestPaceBusy(t *testing.T) {
	var p pace
	now, l := time.Unix(1, 0), load{}
	p.look(now, l)
	for _, step := range []struct {
		what   string
		frames uint64        // in 10 ms
		back   uint64        // of them, received
		rest   time.Duration // of them
		bulk   bool
	}{
		{"a conversation", 900, 450, 8 * time.Millisecond, false},
		{"a busy one", 900, 450, time.Millisecond, false},
		{"few frames that take long", 150, 0, time.Millisecond, false},
		{"a flood, one by one", 400, 0, 3 * time.Millisecond, true},
		{"the same in batches", 600, 0, 7 * time.Millisecond, true},
		{"less", 150, 0, 7 * time.Millisecond, true},
		{"still less", 80, 0, time.Millisecond, false},
		{"many new connections", 600, 250, time.Millisecond, false},
		{"a flood from outside", 600, 500, time.Millisecond, true},
		{"and answers to it", 600, 300, time.Millisecond, false},
		{"a flood again", 400, 0, time.Millisecond, true},
		{"and time for more", 600, 0, 9 * time.Millisecond, false},
	} {
		now, l.frames = now.Add(10*time.Millisecond), l.frames+step.frames
		l.received += step.back
		p.rest = step.rest
		if p.look(now, l); p.bulk != step.bulk {
			t.Errorf("%s: bulk is %v", step.what, p.bulk)
		}
	}
}

func TestPaceStrain(t *testing.T) {
	var p pace
	now, l := time.Unix(1, 0), load{}
	if p.look(now, load{}); p.strain {
		t.Error("strain at the begin")
	}
	for _, step := range []struct {
		what        string
		after, rest time.Duration
		each        uint64 // frames at each wait
		strain      bool
	}{
		{"a conversation, the worker busy", 10 * time.Millisecond, 2 * time.Millisecond, 1, false},
		{"many frames, and time for more", 10 * time.Millisecond, 8 * time.Millisecond, 20, false},
		{"many frames, and less time", 10 * time.Millisecond, 7 * time.Millisecond, 20, true},
		{"too soon to tell, counts next time", 100 * time.Microsecond, 100 * time.Microsecond, 20, true},
		{"no rest at all", 9900 * time.Microsecond, 0, 4, true},
		{"fewer", 10 * time.Millisecond, 0, 3, false},
	} {
		now, l.waits, l.frames = now.Add(step.after), l.waits+paceWaits, l.frames+paceWaits*step.each
		p.rest += step.rest
		if p.look(now, l); p.strain != step.strain {
			t.Errorf("%s: strain is %v", step.what, p.strain)
		}
	}
}
