// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Meter counts what reaches one end of a test within a window of time: the
// payload that a receiver reads, or the requests that a client gets answered.
// What arrives at another time is counted apart, so that a window can begin when
// the flow is steady and end before the last of it is out of the queues. One
// meter serves one test at a time; its methods may be called at any time.
type Meter struct {
	mu          sync.Mutex
	from, until time.Duration // of clock
	count       Count
	times       []time.Duration // of the window's requests
}

// Count is what a Meter saw since its window was set.
type Count struct {
	Bytes, Items int64         // within the window: payload; datagrams or requests
	Median       time.Duration // of the times that these requests took; 0: there were none
	// AllBytes and AllItems are what arrived within the window and at any other
	// time, Last when the last of it did (see Now; 0: nothing did).
	AllBytes, AllItems int64
	Last               time.Duration
}

// Now is the machine's monotonic clock (CLOCK_MONOTONIC), which all its processes
// share: windows and gates of different processes agree on it.
func Now() time.Duration { return clock() + ahead }

// ahead is what the machine's clock was when this process's began; see clock.
var ahead = func() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every Linux has it
	}
	return time.Duration(ts.Nano()) - clock()
}()

// Window sets the window, by Now, and starts counting anew.
func (m *Meter) Window(from, until time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.from, m.until = from-ahead, until-ahead
	m.count, m.times = Count{}, m.times[:0]
}

// Count gives what arrived so far.
func (m *Meter) Count() Count {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.count
	if n := len(m.times); n > 0 {
		times := slices.Clone(m.times)
		slices.Sort(times)
		c.Median = (times[(n-1)/2] + times[n/2]) / 2
	}
	return c
}

// add counts what arrived at a time; it tells whether that is in the window. The
// nil meter counts nothing, and all is in its window.
func (m *Meter) add(now time.Duration, bytes, items int64) bool {
	if m == nil {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.arrived(now, bytes, items)
}

func (m *Meter) arrived(now time.Duration, bytes, items int64) bool {
	m.count.AllBytes += bytes
	m.count.AllItems += items
	m.count.Last = now + ahead
	if now < m.from || now >= m.until {
		return false
	}
	m.count.Bytes += bytes
	m.count.Items += items
	return true
}

// answered counts one request that was answered at a time and took another.
func (m *Meter) answered(now, took time.Duration) bool {
	if m == nil {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.arrived(now, 0, 1)
	if in {
		m.times = append(m.times, took)
	}
	return in
}
