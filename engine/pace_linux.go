// SPDX-License-Identifier: Apache-2.0

package engine

import "time"

// A pace tells whether a worker carries bulk, for which throughput counts, or
// single frames, for which it counts how soon they leave.
type pace struct {
	bulk    bool
	singles bool // bulk whose datagrams arrive one by one, unmerged
	// strain: frames wait for the worker, several of them at each turn, although it
	// is at work for more than a quarter of the time.
	strain bool

	waits int           // since the last look at the clock
	since time.Time     // begin of the period that is measured
	rest  time.Duration // in that time, spent waiting
	until load          // that time
}

// A load is what a worker has carried.
type load struct {
	frames, bytes uint64 // both ways
	received      uint64 // frames of them
	messages      uint64 // received; one with UDP_GRO may be many datagrams
	waits         uint64 // for them
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
	// busyFrames per second are bulk where the worker is at rest for less than a
	// share of busyRest of the time: they are fewer only because it is woken for
	// every one, and comes before the program that sends them. Bulk that there is
	// ends when it rests for busyRestBulk. One direction has busyWay times as many
	// as the other: new connections, several thousand in a second, are as many and
	// take as long, and each waits for every frame of it.
	busyFrames   = 20_000
	busyRest     = 0.6
	busyRestBulk = 0.8
	busyWay      = 4
	// bulkMessages per second is where the receiver's wake-ups, each of which the
	// sender's processor pays for if it is the same machine's, are worth saving.
	bulkMessages = 150_000
	// strainFrames after a wait are more than a conversation leaves.
	strainFrames = 4
)

// due counts a wait and reports whether it is time for a look.
func (p *pace) due() bool {
	p.waits++
	return p.waits >= paceWaits
}

// look is told the time and what was carried until then.
func (p *pace) look(now time.Time, l load) {
	p.waits = 0
	d := now.Sub(p.since)
	if d < pacePeriod {
		return
	}
	if p.since.IsZero() { // the worker began just now
		p.begin(now, l)
		return
	}
	p.strain = l.frames-p.until.frames >= strainFrames*(l.waits-p.until.waits) && p.rest < d*3/4
	limit, rest := 1.0, busyRest
	if p.bulk {
		limit, rest = 0.5, busyRestBulk
	}
	reaches := func(now, then uint64, rate float64) bool { return float64(now-then) >= rate*limit*d.Seconds() }
	p.bulk = reaches(l.frames, p.until.frames, bulkFrames) || reaches(l.bytes, p.until.bytes, bulkBytes) ||
		reaches(l.frames, p.until.frames, busyFrames) && p.rest.Seconds() < rest*d.Seconds() && p.oneWay(l)
	p.singles = p.bulk && reaches(l.messages, p.until.messages, bulkMessages)
	p.begin(now, l)
}

// oneWay tells whether hardly any frames of this period went the other way, unlike
// those of a conversation or of new connections.
func (p *pace) oneWay(l load) bool {
	received := l.received - p.until.received
	sent := l.frames - p.until.frames - received
	return max(sent, received) >= busyWay*min(sent, received)
}

// begin begins a period.
func (p *pace) begin(now time.Time, l load) {
	p.since, p.until, p.rest = now, l, 0
}

// idle ends bulk.
func (p *pace) idle() { p.bulk, p.singles, p.strain, p.waits = false, false, false, 0 }
