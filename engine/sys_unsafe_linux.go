// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls without the allocations of the wrappers in x/sys. Those that
// cannot block are made without telling Go's scheduler, for which a call is
// otherwise an occasion to hand the processor to another thread.

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

func newInMessages() *inMessages {
	in := &inMessages{
		hdrs:    make([]mmsghdr, rxMessages),
		names:   make([]sockaddr, rxMessages),
		buffers: make([]byte, rxMessages*rxStride),
		control: make([]byte, rxMessages*rxControl),
		used:    rxMessages,
	}
	iov := make([]unix.Iovec, rxMessages)
	for i := range in.hdrs {
		iov[i].Base = &in.buffers[i*rxStride]
		iov[i].SetLen(rxBuffer)
		h := &in.hdrs[i].hdr
		h.Name = &in.names[i].b[0]
		h.Iov = &iov[i]
		h.SetIovlen(1)
		h.Control = &in.control[i*rxControl]
	}
	return in
}

// recvmmsg fills in with what is there, up to limit messages, without blocking, and
// returns how many that is. Only the headers that the call before filled, or all at
// first, need to be made ready again.
func recvmmsg(fd int, in *inMessages, limit int) (int, unix.Errno) {
	for i := range in.hdrs[:in.used] {
		h := &in.hdrs[i].hdr
		h.Namelen = uint32(len(in.names[i].b))
		h.SetControllen(rxControl)
	}
	in.used = 0
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&in.hdrs[0])), uintptr(limit), unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			in.used = int(n)
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// connect is connect(2) of a datagram socket, which cannot block.
func connect(fd int, to *sockaddr) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to.b)), uintptr(to.n))
	return e
}

// epollPoll is epoll_wait(2) that does not wait.
func epollPoll(epoll int, events []unix.EpollEvent) (int, error) {
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// schedYield is sched_yield(2).
func schedYield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// epollWait is epoll_wait(2) for at most limit, in milliseconds, less than 0: for
// ever.
func epollWait(epoll int, events []unix.EpollEvent, limit time.Duration) (int, error) {
	ms := ^uintptr(0)
	if limit >= 0 {
		ms = uintptr(limit.Milliseconds())
	}
	for {
		n, _, e := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), ms, 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// rawMessage is a struct msghdr for sending. It refers to what set was given.
type rawMessage struct{ hdr unix.Msghdr }

func (m *rawMessage) set(dest *sockaddr, iov []unix.Iovec, control []byte) {
	m.hdr.Name = &dest.b[0]
	m.hdr.Namelen = dest.n
	m.hdr.Iov = unsafe.SliceData(iov)
	m.hdr.SetIovlen(len(iov))
	m.hdr.Control = nil
	if len(control) > 0 {
		m.hdr.Control = &control[0]
	}
	m.hdr.SetControllen(len(control))
}

// sendmsg is sendmsg(2) without blocking.
func sendmsg(fd int, m *rawMessage) unix.Errno {
	for {
		_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m.hdr)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if e != unix.EINTR {
			return e
		}
	}
}

func iovec(b []byte) (v unix.Iovec) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
	return v
}
