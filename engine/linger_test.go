// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"slices"
	"testing"
	"time"
)

func TestLingerWindow(t *testing.T) {
	const limit = 80 * time.Microsecond
	var o lookout
	for i, step := range []struct {
		slept, window time.Duration
	}{
		{time.Second, 0}, // an idle device: never
		{241 * time.Microsecond, 0},
		{240 * time.Microsecond, limit}, // an answer that came soon
		{time.Millisecond, limit / 2},   // in vain: less and less
		{time.Millisecond, limit / 4},
		{time.Millisecond, limit / 8},
		{time.Millisecond, 0},
		{time.Millisecond, 0},
		{time.Microsecond, limit},
		{time.Microsecond, limit},
	} {
		if o.slept(step.slept, 0, limit); o.window != step.window {
			t.Fatalf("step %d: after %v the window is %v, want %v", i, step.slept, o.window, step.window)
		}
	}
}

// TestLingerInVain asserts that a worker which looks on in vain time after time,
// although something comes as soon as it sleeps, pauses, longer each time, and goes
// on where looking on succeeds half of the time.
func TestLingerInVain(t *testing.T) {
	const limit = 80 * time.Microsecond
	var o lookout
	// wait makes a wait and tells whether the worker looked on.
	wait := func(found bool) bool {
		window := o.look()
		if window > 0 && found {
			o.found()
		} else {
			o.slept(limit+10*time.Microsecond, window, limit)
		}
		return window > 0
	}
	wait(false)
	for i := range 1000 {
		if !wait(i%2 == 0) {
			t.Fatalf("no looking on at wait %d, half of which succeed", i)
		}
	}
	o = lookout{}
	wait(false)
	var pauses []int
	for n, looked := 0, 0; len(pauses) < 9; {
		if !wait(false) {
			n++
			continue
		}
		if n > 0 {
			pauses = append(pauses, n)
			if looked != lingerVain {
				t.Errorf("a pause after %d times in vain, want %d", looked, lingerVain)
			}
			n, looked = 0, 0
		}
		looked++
	}
	if want := []int{64, 128, 256, 512, 1024, 2048, 4096, 4096, 4096}; !slices.Equal(pauses, want) {
		t.Errorf("pauses of %d waits, want %d", pauses, want)
	}
	if o.found(); o.next != 0 {
		t.Errorf("after a success the next pause has %d waits", o.next)
	}
}

// TestLingerFor asserts that a worker learns apart how soon this machine answers
// what is delivered, and how soon the network does.
func TestLingerFor(t *testing.T) {
	l := lingerer{limit: time.Microsecond}
	for i, step := range []struct {
		received uint64
		want     *lookout
	}{{0, &l.remote}, {3, &l.local}, {3, &l.remote}, {4, &l.local}, {5, &l.local}} {
		if got := l.lookout(step.received); got != step.want {
			t.Errorf("step %d: after %d datagrams the wrong one", i, step.received)
		}
	}
}

func TestLingerBulk(t *testing.T) {
	l := lingerer{limit: time.Microsecond}
	var bytes uint64
	steps := func(n int, each uint64) (bulk bool) {
		for range n {
			bytes += each
			bulk = l.bulk(bytes)
		}
		return bulk
	}
	if steps(1000, 1500) {
		t.Error("single frames of 1500 bytes are taken for bulk")
	}
	if !steps(10, 60000) {
		t.Error("super-frames are not taken for bulk")
	}
	if !steps(100, 12000) {
		t.Error("batches of eight frames are not taken for bulk")
	}
	if steps(100, 64) {
		t.Error("small frames after bulk are still taken for bulk")
	}
}

func TestLingerLimit(t *testing.T) {
	for give, want := range map[time.Duration]time.Duration{-1: 0, 0: defaultLinger, time.Millisecond: time.Millisecond} {
		if got := newLingerer(give).limit; got != want {
			t.Errorf("%v: limit %v, want %v", give, got, want)
		}
	}
}
