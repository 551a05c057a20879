// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"kohaku/tun"
)

// A poller is one thread that serves the device queues of many tunnels: it
// sleeps in epoll_wait(2) on all of them, and reads and sends what comes.
//
// A thread of its own, rather than a goroutine that Go's poller wakes, since
// every wake-up through Go's scheduler also wakes a second thread to look for
// more work. On two cores that cost a seventh of the throughput and doubled the
// round trip.
type poller struct {
	engine *Engine
	epoll  int
	wake   int // eventfd; readable means that the poller is to end
	ctx    *txContext
	done   chan struct{}

	// mu is held while a queue is served, so whoever has removed a queue under
	// it knows that the poller does not touch the queue any more.
	mu    sync.Mutex
	slots []pollSlot
}

// pollSlot is a place in poller.slots. An event names the slot and the
// generation, so one that was under way when its queue was removed is known.
type pollSlot struct {
	t          *tunnel // nil: free
	q          tun.Pollable
	generation int32
}

// wakeSlot is what the poller's own eventfd is registered as.
const wakeSlot = -1

func newPoller(e *Engine) (*poller, error) {
	p := &poller{engine: e, ctx: newTxContext(e), done: make(chan struct{})}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make an epoll instance: %w", err)
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(p.epoll)
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	if err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, p.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: wakeSlot}); err != nil {
		unix.Close(p.epoll)
		unix.Close(p.wake)
		return nil, fmt.Errorf("watch an eventfd: %w", err)
	}
	go p.loop()
	return p, nil
}

// close ends the thread. All queues must have been removed.
func (p *poller) close() {
	_, _ = unix.Write(p.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	<-p.done
	unix.Close(p.epoll)
	unix.Close(p.wake)
}

// add starts to serve q and returns its slot.
func (p *poller) add(t *tunnel, q tun.Pollable) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slot := 0
	for slot < len(p.slots) && p.slots[slot].t != nil {
		slot++
	}
	if slot == len(p.slots) {
		p.slots = append(p.slots, pollSlot{})
	}
	s := &p.slots[slot]
	err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, q.Descriptor(), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(slot), Pad: s.generation})
	if err != nil {
		return 0, fmt.Errorf("watch device %s: %w", t.dev.Name(), err)
	}
	s.t, s.q = t, q
	return slot, nil
}

// remove ends the service of what add put into slot. When it returns the poller
// does not use the queue any more. Removing twice is harmless as long as the
// slot was not given to another, hence t.
func (p *poller) remove(slot int, t *tunnel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[slot].t == t {
		p.drop(slot)
	}
}

// drop frees a slot. Guarded by mu.
func (p *poller) drop(slot int) {
	s := &p.slots[slot]
	_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, s.q.Descriptor(), nil) // fails only for what is not watched
	s.t, s.q = nil, nil
	s.generation++
}

func (p *poller) loop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := epollWait(p.epoll, events)
		if err != nil {
			p.engine.log.Error("VXLAN transmitter ends", "error", fmt.Errorf("wait for frames: %w", err))
			return
		}
		for _, ev := range events[:n] {
			if ev.Fd == wakeSlot {
				return
			}
			p.serve(int(ev.Fd), ev.Pad)
		}
	}
}

// serve sends what the queue in slot holds.
func (p *poller) serve(slot int, generation int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &p.slots[slot]
	if s.t == nil || s.generation != generation {
		return
	}
	err := p.ctx.drain(s.t, s.q)
	if err == nil {
		return
	}
	t := s.t
	p.drop(slot) // it would be reported as readable for ever
	if !errors.Is(err, net.ErrClosed) {
		t.fail(err)
	}
}
