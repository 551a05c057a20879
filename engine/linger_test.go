// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"
	"time"
)

func TestLingerWindow(t *testing.T) {
	const limit = 80 * time.Microsecond
	l := lingerer{limit: limit}
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
		if l.slept(step.slept); l.window != step.window {
			t.Fatalf("step %d: after %v the window is %v, want %v", i, step.slept, l.window, step.window)
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
