// SPDX-License-Identifier: Apache-2.0

package perf

import "time"

// moderation keeps a fast receiver from being woken for every datagram. A
// receiver that is quicker than the sender sleeps between any two datagrams, and
// on one machine it is the sender's processor that pays for waking it: the
// generator would then be the bottleneck. So above a certain rate the receiver
// looks every now and then in place of waiting, as network cards do with their
// interrupts. The socket's buffer holds what arrives meanwhile.
//
// Below that rate it waits, and arrival times are as exact as the scheduler
// makes them. Above it, jitter is no finer than pollPause.
type moderation struct {
	polling bool
	since   time.Duration // start of the window
	seen    int           // datagrams in it
}

const (
	pollPause      = 50 * time.Microsecond
	pollWindow     = 10 * time.Millisecond
	pollAbove      = 200 // datagrams in a window: 20,000 a second
	waitAgainBelow = 100
)

// rest decides what to do after a call that returned n of at most limit
// datagrams, and sleeps if that is it.
func (m *moderation) rest(n, limit int, now time.Duration) {
	m.seen += n
	if now-m.since >= pollWindow {
		// A window may be longer than asked for: compare rates.
		windows := int((now - m.since) / pollWindow)
		if m.polling {
			m.polling = m.seen >= waitAgainBelow*windows
		} else {
			m.polling = m.seen >= pollAbove*windows
		}
		m.since, m.seen = now, 0
	}
	if m.polling && n < limit {
		sleep(pollPause)
	}
}
