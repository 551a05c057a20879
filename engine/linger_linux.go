// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"golang.org/x/sys/unix"
)

// defaultLinger is longer than what one machine takes for its part of a round trip
// (20 to 40 µs in a virtual machine), so that no worker on a way of three sleeps
// while another one is at work.
const defaultLinger = 100 * time.Microsecond

// A lingerer decides how long a worker looks on for something to do before it
// sleeps. A frame that finds its worker awake saves the wake-up, which is most of
// what a tunnel adds to a round trip; a worker that looks on in vain costs
// processor time. So it looks on only while answers have come soon, much as KVM
// does before it lets a virtual processor sleep (Documentation/virt/kvm/
// halt-polling.rst), and not under bulk, where threads are awake anyway and the
// processor has better things to do.
type lingerer struct {
	limit  time.Duration // 0: never linger
	window time.Duration // at present, 0 to limit

	seen uint64 // bytes carried, at the last wait
	mean uint64 // bytes carried between two waits, a moving mean
}

const (
	// lingerBulk is the mean of bytes between two waits from which traffic is bulk.
	lingerBulk = 8 << 10
	// lingerReach, in limits, is how soon something must have come for the next
	// wait to be worth looking on: without lingering it takes longer than with it,
	// since everybody else on the way sleeps, too.
	lingerReach = 3
)

func newLingerer(limit time.Duration) lingerer {
	switch {
	case limit < 0:
		limit = 0
	case limit == 0:
		limit = defaultLinger
	}
	return lingerer{limit: limit}
}

// bulk is told before each wait how many bytes were carried so far.
func (l *lingerer) bulk(bytes uint64) bool {
	l.mean += (bytes-l.seen)/8 - l.mean/8
	l.seen = bytes
	return l.mean >= lingerBulk
}

// slept learns how long it was until something came, when looking on had not
// been enough.
func (l *lingerer) slept(d time.Duration) {
	switch {
	case d <= lingerReach*l.limit:
		l.window = l.limit
	case l.window <= l.limit/8:
		l.window = 0
	default:
		l.window /= 2
	}
}

// wait is epoll_wait(2) that lingers. It may return without an event.
func (w *worker) wait(events []unix.EpollEvent) (int, error) {
	w.keepPace()
	begin := time.Now()
	n, err := w.await(events, begin)
	w.pace.rest += time.Since(begin)
	return n, err
}

// await is wait, which began at a time.
func (w *worker) await(events []unix.EpollEvent, begin time.Time) (int, error) {
	switch {
	case w.unwatched > 0:
		return w.nap(events)
	case w.pace.bulk:
		n, err := epollWait(w.epoll, events, paceIdle)
		if n == 0 && err == nil {
			w.pace.idle()
			w.prioritise()
		}
		return n, err
	}
	l := &w.linger
	if l.limit == 0 || l.bulk(w.stages.bytes.Load()) {
		return epollWait(w.epoll, events, -1)
	}
	for l.window > 0 {
		if n, err := epollPoll(w.epoll, events); n > 0 || err != nil {
			w.stages.lingered.Add(1)
			return n, err
		}
		if time.Since(begin) >= l.window {
			break
		}
		// Whoever else can use this processor comes first; it may be the one
		// that is waited for.
		schedYield()
	}
	n, err := epollWait(w.epoll, events, -1)
	l.slept(time.Since(begin))
	return n, err
}
