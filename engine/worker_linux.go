// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/tun"
)

// A worker is one thread that carries frames both ways: it sleeps in epoll_wait(2)
// on a UDP socket for each address listened on and on device queues of all
// tunnels, and does what there is to do. Its buffers are its own.
//
// A thread rather than goroutines that Go's poller wakes, since every wake-up
// through Go's scheduler also wakes a second thread to look for more work. Both
// directions in one thread, since what answers a frame (an acknowledgement, a
// reply) tends to come while the thread is still awake.
type worker struct {
	engine *Engine
	epoll  int
	wake   int // eventfd; readable means that the worker is to end
	rx     *receiver
	tx     *txContext
	socks  []*rxSocket // closed by the engine
	stages stages
	linger lingerer
	pace   pace
	prio   priority
	done   chan struct{}

	unwatched int    // how many of socks are not watched, see keepWatch
	seen      uint64 // messages received when nap last looked

	// mu is held while a queue is served, so whoever has removed a queue under
	// it knows that the worker does not touch the queue any more.
	mu    sync.Mutex
	slots []pollSlot
}

// pollSlot is a place in worker.slots. An event names the slot and the
// generation, so one that was under way when its queue was removed is known.
type pollSlot struct {
	t          *tunnel // nil: free
	q          tun.Pollable
	generation int32
}

// What is not a slot in an event's Fd: the worker's own eventfd, and below it
// the sockets.
const (
	wakeEvent   = -1
	socketEvent = -2 // of socks[0]; socks[i] has socketEvent-i
)

func newWorker(e *Engine, index int) (*worker, error) {
	w := &worker{engine: e, wake: -1, linger: newLingerer(e.linger), done: make(chan struct{})}
	w.rx, w.tx = newReceiver(e, index, &w.stages), newTxContext(e, &w.stages)
	var err error
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an epoll instance: %w", err)
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		err = w.watch(w.wake, wakeEvent, 0)
	}
	if err != nil {
		w.closeFDs()
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return w, nil
}

func (w *worker) watch(fd, event int, generation int32) error {
	return unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(event), Pad: generation})
}

// listen makes the worker receive from a socket. Only before start.
func (w *worker) listen(s *rxSocket) error {
	if err := w.watch(s.fd, socketEvent-len(w.socks), 0); err != nil {
		return fmt.Errorf("watch a UDP socket: %w", err)
	}
	w.socks = append(w.socks, s)
	return nil
}

func (w *worker) closeFDs() {
	unix.Close(w.epoll)
	if w.wake >= 0 {
		unix.Close(w.wake)
	}
}

// stop ends the thread, which start has begun. All queues must have been
// removed.
func (w *worker) stop() {
	_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-w.done
	w.closeFDs()
}

// add starts to serve q and returns its slot.
func (w *worker) add(t *tunnel, q tun.Pollable) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slot := 0
	for slot < len(w.slots) && w.slots[slot].t != nil {
		slot++
	}
	if slot == len(w.slots) {
		w.slots = append(w.slots, pollSlot{})
	}
	s := &w.slots[slot]
	err := w.watch(q.Descriptor(), slot, s.generation)
	if err != nil {
		return 0, fmt.Errorf("watch device %s: %w", t.dev.Name(), err)
	}
	s.t, s.q = t, q
	return slot, nil
}

// remove ends the service of what add put into slot. When it returns the worker
// does not use the queue any more. Removing twice is harmless as long as the
// slot was not given to another, hence t.
func (w *worker) remove(slot int, t *tunnel) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.slots[slot].t == t {
		w.drop(slot)
	}
}

// drop frees a slot. Guarded by mu.
func (w *worker) drop(slot int) {
	s := &w.slots[slot]
	_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_DEL, s.q.Descriptor(), nil) // fails only for what is not watched
	s.t, s.q = nil, nil
	s.generation++
}

func (w *worker) start() { go w.loop() }

func (w *worker) loop() {
	runtime.LockOSThread() // for good: nobody else should get a thread with this priority
	defer close(w.done)
	if err := w.prio.ask(w.engine.nice); err != nil {
		w.engine.notePriority(err)
	}
	// So that naps are as short as they are meant to be; 50 µs more otherwise.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	events := make([]unix.EpollEvent, 64+len(w.socks))
	for {
		n, err := w.wait(events)
		w.stages.waits.Add(1)
		if err != nil {
			w.engine.log.Error("VXLAN worker ends, nothing is carried any more", "error", fmt.Errorf("wait for frames: %w", err))
			return
		}
		for _, ev := range events[:n] {
			switch {
			case ev.Fd >= 0:
				w.serve(int(ev.Fd), ev.Pad)
			case ev.Fd == wakeEvent:
				return
			default:
				w.rx.serve(w.socks[socketEvent-ev.Fd])
			}
		}
	}
}

// serve sends what the queue in slot holds.
func (w *worker) serve(slot int, generation int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &w.slots[slot]
	if s.t == nil || s.generation != generation {
		return
	}
	err := w.tx.drain(s.t, s.q)
	if err == nil {
		return
	}
	t := s.t
	w.drop(slot) // it would be reported as readable for ever
	t.fail(err)
}

// keepPace looks, once in a while, at what the worker carries.
func (w *worker) keepPace() {
	if !w.pace.due() {
		return
	}
	bulk, strain := w.pace.bulk, w.pace.strain
	s := &w.stages
	received := s.received.Load()
	w.pace.look(time.Now(), load{
		frames: s.framesRead.Load() + received, bytes: s.bytes.Load(), received: received,
		messages: s.messages.Load(), waits: s.waits.Load(),
	})
	if w.pace.bulk != bulk || w.pace.strain != strain {
		w.prioritise()
	}
	w.keepWatch()
}

// prioritise has the thread scheduled as suits its pace. It was possible at the
// start, or has been complained about.
func (w *worker) prioritise() { _ = w.prio.set(w.pace.bulk, w.pace.strain) }
