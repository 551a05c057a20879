// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"time"

	"golang.org/x/sys/unix"
)

// pacer spreads writes of equal size evenly over time. It looks at the average
// since the start, as iperf3 does, so that a delay is caught up. The zero rate
// does not pace.
type pacer struct {
	start time.Duration // when the first write was due, see clock
	gap   float64       // nanoseconds between two writes; 0: unlimited
	done  int64         // writes so far
}

// newPacer paces writes of size bytes to rate bit/s.
func newPacer(rate int64, size int) pacer {
	if rate == 0 {
		return pacer{}
	}
	return pacer{start: clock(), gap: float64(size) * 8 * 1e9 / float64(rate)}
}

// due returns how many writes, at most limit, are due, after waiting for one if
// there is none. It waits pollEvery at most and then returns 0.
func (p *pacer) due(limit int) int {
	if p.gap == 0 {
		return limit
	}
	now := clock()
	n := int64(float64(now-p.start)/p.gap) + 1 - p.done
	if n > 0 {
		return int(min(n, int64(limit)))
	}
	wait := p.start + time.Duration(float64(p.done)*p.gap) - now
	sleep(min(wait, pollEvery))
	if wait > pollEvery {
		return 0
	}
	return 1
}

// took tells how many writes were made.
func (p *pacer) took(n int) { p.done += int64(n) }

// epoch is the zero of clock.
var epoch = time.Now()

// clock gives monotonic time since the process started measuring; cheap enough
// for every datagram.
func clock() time.Duration { return time.Since(epoch) }

// sleep blocks the thread, which is precise to the kernel's timer slack; the
// runtime's own timers wake up to a millisecond late.
func sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	ts := unix.NsecToTimespec(d.Nanoseconds())
	// Interrupted by a signal it returns early; whoever paces looks at the clock anyway.
	_ = unix.Nanosleep(&ts, nil)
}
