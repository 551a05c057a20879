// SPDX-License-Identifier: Apache-2.0

package engine

import "time"

// A pace tells whether a worker carries bulk, for which throughput counts, or
// single frames, for which it counts how soon they leave.
type pace struct {
	bulk bool

	waits         int       // since the last look at the clock
	since         time.Time // begin of the period that is measured
	frames, bytes uint64    // carried until then
}

const (
	// paceWaits is how many waits pass between two looks at the clock.
	paceWaits = 32
	// pacePeriod is the shortest time from which a rate is reckoned.
	pacePeriod = time.Millisecond
	// paceIdle without a frame ends bulk.
	paceIdle = 10 * time.Millisecond
	// bulkFrames and bulkBytes, per second, are bulk, one or the other. One
	// conversation of single requests and replies stays far below. Bulk that
	// there is ends at half.
	bulkFrames = 150_000
	bulkBytes  = 64 << 20
)

// due counts a wait and reports whether it is time for a look.
func (p *pace) due() bool {
	p.waits++
	return p.waits >= paceWaits
}

// look is told the time and what was carried until then.
func (p *pace) look(now time.Time, frames, bytes uint64) {
	p.waits = 0
	d := now.Sub(p.since)
	if d < pacePeriod {
		return
	}
	limit := 1.0
	if p.bulk {
		limit = 0.5
	}
	limit *= d.Seconds()
	p.bulk = float64(frames-p.frames) >= bulkFrames*limit || float64(bytes-p.bytes) >= bulkBytes*limit
	p.since, p.frames, p.bytes = now, frames, bytes
}

// idle ends bulk.
func (p *pace) idle() { p.bulk, p.waits = false, 0 }
