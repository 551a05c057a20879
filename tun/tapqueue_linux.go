// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"kohaku/encap"
)

// A tapQueue is one descriptor of a TAP. Reading and writing hold rmu and wmu, so
// that close cannot take the descriptor's number away under a system call.
type tapQueue struct {
	dev    *tap
	fd     int
	wake   int // eventfd that becomes readable when the queue is closed
	closed atomic.Bool

	rmu sync.Mutex

	wmu sync.Mutex
	hdr [vnetHdrLen]byte
	iov []unix.Iovec
}

// newTAPQueue takes the descriptor out of f and closes f, also on error.
func newTAPQueue(d *tap, f *os.File) (*tapQueue, error) {
	defer f.Close()
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	q := &tapQueue{dev: d, fd: -1}
	if cerr := rc.Control(func(fd uintptr) { q.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, fmt.Errorf("duplicate the descriptor: %w", err)
	}
	if q.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(q.fd)
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	return q, nil
}

func (q *tapQueue) close() error {
	q.closed.Store(true)
	_, _ = unix.Write(q.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // ends Wait
	q.rmu.Lock()
	defer q.rmu.Unlock()
	q.wmu.Lock()
	defer q.wmu.Unlock()
	return errors.Join(unix.Close(q.fd), unix.Close(q.wake))
}

func (q *tapQueue) errClosed() error { return fmt.Errorf("%s: %w", q.dev.name, net.ErrClosed) }

// Descriptor implements Pollable.
func (q *tapQueue) Descriptor() int { return q.fd }

// Wait implements Queue. It occupies a thread while it waits.
func (q *tapQueue) Wait() error {
	q.rmu.Lock()
	defer q.rmu.Unlock()
	if q.closed.Load() {
		return q.errClosed()
	}
	fds := [2]unix.PollFd{{Fd: int32(q.fd), Events: unix.POLLIN}, {Fd: int32(q.wake), Events: unix.POLLIN}}
	if err := poll(fds[:]); err != nil {
		return fmt.Errorf("%s: wait for frames: %w", q.dev.name, err)
	}
	if q.closed.Load() {
		return q.errClosed()
	}
	return nil
}

// Read implements Queue.
func (q *tapQueue) Read(arena []byte, frames []Frame) (n int, err error) {
	q.rmu.Lock()
	defer q.rmu.Unlock()
	if q.closed.Load() {
		return 0, q.errClosed()
	}
	for n < len(frames) && len(arena) >= MinArena {
		got, e := rawRead(q.fd, arena[:MinArena])
		if e == unix.EAGAIN {
			return n, nil
		}
		if e != 0 {
			return n, fmt.Errorf("%s: %w: read: %w", q.dev.name, ErrGone, e)
		}
		if got <= vnetHdrLen {
			continue
		}
		o, ok := parseVnetHdr(arena[:got])
		if !ok {
			continue // a kind of super-frame that nobody asked for
		}
		frames[n] = Frame{Buf: arena[:got:got], Offload: o}
		n++
		if o.GSO != encap.GSONone {
			return n, nil // large enough to be worth a send of its own
		}
		// Keep the next frame as aligned as this one.
		arena = arena[min((got+7)&^7, len(arena)):]
	}
	return n, nil
}

// Write implements Queue.
func (q *tapQueue) Write(frames []encap.Run) (int, error) {
	q.wmu.Lock()
	defer q.wmu.Unlock()
	if q.closed.Load() {
		return 0, q.errClosed()
	}
	for i := range frames {
		r := &frames[i]
		putVnetHdr(q.hdr[:], r.Offload)
		q.iov = appendIovec(q.iov[:0], q.hdr[:])
		for _, p := range r.Parts {
			q.iov = appendIovec(q.iov, p)
		}
		switch e := rawWritev(q.fd, q.iov); e {
		case 0:
		case unix.EBADFD, unix.ENODEV:
			return i, fmt.Errorf("%s: %w: write: %w", q.dev.name, ErrGone, e)
		default:
			return i, &WriteError{q.dev.name, r.Offload.GSO != encap.GSONone, e}
		}
	}
	return len(frames), nil
}
