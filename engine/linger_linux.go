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
	limit time.Duration // 0: never linger
	// What is waited for after frames were delivered to this machine comes from a
	// program of this machine, and what after others from the network: one may be
	// worth looking on for when the other is not.
	local, remote lookout

	seen uint64 // bytes carried, at the last wait
	mean uint64 // bytes carried between two waits, a moving mean
	got  uint64 // datagrams received, at the last wait
}

// A lookout is how a worker looks on for one kind of thing.
type lookout struct {
	window time.Duration // at present, 0 to the limit

	vain  int // how much more often lately it was in vain than not, see found
	pause int // waits until it is tried again
	next  int // the length of the next pause; 0: the first
}

const (
	// lingerBulk is the mean of bytes between two waits from which traffic is bulk.
	lingerBulk = 8 << 10
	// lingerReach, in limits, is how soon something must have come for the next
	// wait to be worth looking on: without lingering it takes longer than with it,
	// since everybody else on the way sleeps, too.
	lingerReach = 3
	// lingerVain is how often a worker looks on in vain although something comes
	// soon after, before it pauses: then it may be in the way of what it waits for.
	// A yield lets a thread of its own control group have the processor, but none of
	// another (kernel/sched/fair.c, yield_task_fair), such as a container's.
	lingerVain = 8
	// lingerFound is how many such times one makes up for in which something came.
	lingerFound = 2
	// lingerPause and lingerLongest are the least and the greatest length of a
	// pause, in waits. Each is twice as long as the one before.
	lingerPause   = 64
	lingerLongest = 4096
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

// lookout gives the one for the next wait. It is told how many datagrams were
// received so far.
func (l *lingerer) lookout(received uint64) *lookout {
	was := l.got
	if l.got = received; received != was {
		return &l.local
	}
	return &l.remote
}

// look tells for how long to look on at the next wait.
func (o *lookout) look() time.Duration {
	if o.pause > 0 {
		o.pause--
		return 0
	}
	return o.window
}

// found learns that something came while the worker looked on.
func (o *lookout) found() {
	o.vain, o.next = max(o.vain-lingerFound, 0), 0
}

// slept learns how long it was until something came, when looking on, for a time
// that may be 0, had not been enough.
func (o *lookout) slept(d, looked, limit time.Duration) {
	switch {
	case d <= lingerReach*limit:
		o.window = limit
		if looked > 0 {
			o.missed()
		}
	case o.window <= limit/8:
		o.window = 0
	default:
		o.window /= 2
	}
}

// missed learns that looking on was in vain.
func (o *lookout) missed() {
	if o.vain++; o.vain < lingerVain {
		return
	}
	o.vain, o.pause = 0, max(o.next, lingerPause)
	o.next = min(2*o.pause, lingerLongest)
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
	o := l.lookout(w.stages.received.Load())
	window := o.look()
	for window > 0 {
		if n, err := epollPoll(w.epoll, events); n > 0 || err != nil {
			w.stages.lingered.Add(1)
			o.found()
			return n, err
		}
		if time.Since(begin) >= window {
			break
		}
		// Whoever else can use this processor comes first; it may be the one
		// that is waited for.
		schedYield()
	}
	n, err := epollWait(w.epoll, events, -1)
	o.slept(time.Since(begin), window, l.limit)
	return n, err
}
