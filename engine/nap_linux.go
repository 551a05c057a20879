// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"

	"golang.org/x/sys/unix"
)

// Under bulk whose datagrams arrive one by one a worker does as NICs do that
// moderate their interrupts: it sleeps for a moment instead of waiting to be woken,
// and then finds many. It also takes its socket off the epoll instance, which would
// else be told of every datagram (fs/eventpoll.c, ep_poll_callback), in the middle of
// its delivery: on the sender's processor, where the two share a machine, and for a
// twentieth of it.

// napTime is how long a worker sleeps in between.
const napTime = 50 * time.Microsecond

// keepWatch takes the sockets at which datagrams arrive one by one off the epoll
// instance, or puts back those that had been.
func (w *worker) keepWatch() {
	for i, s := range w.socks {
		switch {
		case w.pace.singles && !s.unwatched && s.came > 0:
			if unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, s.fd, nil) != nil {
				continue // goes on as it is, and costs more
			}
			s.unwatched = true
			w.unwatched++
		case !w.pace.singles && s.unwatched:
			if w.watch(s.fd, socketEvent-i, 0) != nil {
				continue // no memory: it is looked at between naps until there is
			}
			s.unwatched = false
			w.unwatched--
		}
		s.came = 0
	}
}

// nap is wait while sockets are not watched: these are among the events each time,
// whatever they hold.
func (w *worker) nap(events []unix.EpollEvent) (n int, err error) {
	watched := events[:len(events)-w.unwatched]
	if n, err = epollPoll(w.epoll, watched); n == 0 && err == nil && !w.cameMore() {
		ts := unix.NsecToTimespec(int64(napTime))
		_ = unix.Nanosleep(&ts, nil) // cut short by a signal: no harm
		n, err = epollPoll(w.epoll, watched)
	}
	if err != nil {
		return 0, err
	}
	for i, s := range w.socks {
		if s.unwatched {
			events[n] = unix.EpollEvent{Fd: int32(socketEvent - i)}
			n++
		}
	}
	return n, nil
}

// cameMore reports whether something was received since it was last asked.
func (w *worker) cameMore() bool {
	was := w.seen
	w.seen = w.stages.messages.Load()
	return w.seen != was
}
