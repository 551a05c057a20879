// SPDX-License-Identifier: Apache-2.0

package perf

import "time"

// testClock has the timers of one test; a channel of one that is not wanted is
// nil and never ready.
type testClock struct {
	omitT, endT *time.Timer
	tickT       *time.Ticker
	every       time.Duration
}

// newTestClock starts the timers: the end of the omitted part, the end of the
// test (omit and duration together), and the intervals.
func newTestClock(omit, duration, every time.Duration) *testClock {
	c := &testClock{every: every}
	if omit > 0 {
		c.omitT = time.NewTimer(omit)
	}
	if duration > 0 {
		c.endT = time.NewTimer(omit + duration)
	}
	if every > 0 {
		c.tickT = time.NewTicker(every)
	}
	return c
}

func (c *testClock) omit() <-chan time.Time {
	if c.omitT == nil {
		return nil
	}
	return c.omitT.C
}

func (c *testClock) end() <-chan time.Time {
	if c.endT == nil {
		return nil
	}
	return c.endT.C
}

func (c *testClock) tick() <-chan time.Time {
	if c.tickT == nil {
		return nil
	}
	return c.tickT.C
}

// restartInterval lets the next interval start now.
func (c *testClock) restartInterval() {
	if c.tickT != nil {
		c.tickT.Reset(c.every)
	}
}

func (c *testClock) stop() {
	if c.omitT != nil {
		c.omitT.Stop()
	}
	if c.endT != nil {
		c.endT.Stop()
	}
	if c.tickT != nil {
		c.tickT.Stop()
	}
}
