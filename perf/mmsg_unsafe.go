// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of the C library: one message of sendmmsg or
// recvmmsg. The kernel writes length: bytes sent or received.
type mmsghdr struct {
	hdr    unix.Msghdr
	length uint32
	_      [4]byte
}

// batch is a fixed array of datagram buffers of equal size that goes to or comes
// from a connected socket in one call. The buffers are one piece of memory which
// belongs to the batch for its whole life, as the kernel's structures point into it.
type batch struct {
	mem  []byte
	size int
	iovs []unix.Iovec
	msgs []mmsghdr
}

// newBatch makes a batch of n buffers of size bytes each.
func newBatch(n, size int) *batch {
	b := &batch{mem: make([]byte, n*size), size: size, iovs: make([]unix.Iovec, n), msgs: make([]mmsghdr, n)}
	for i := range b.msgs {
		b.iovs[i].Base = &b.mem[i*size]
		b.iovs[i].SetLen(size)
		b.msgs[i].hdr.Iov = &b.iovs[i]
		b.msgs[i].hdr.SetIovlen(1)
	}
	return b
}

// buf gives the i-th buffer.
func (b *batch) buf(i int) []byte { return b.mem[i*b.size : (i+1)*b.size] }

// length gives how many bytes of the i-th buffer the last recv filled.
func (b *batch) length(i int) int { return min(int(b.msgs[i].length), b.size) }

// send sends the buffers from..to and returns how many the kernel took. With an
// error none was taken.
func (b *batch) send(fd, from, to int) (int, error) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd),
			uintptr(unsafe.Pointer(&b.msgs[from])), uintptr(to-from), 0, 0, 0)
		runtime.KeepAlive(b)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// recv waits for one datagram, unless told not to, and takes what else is there;
// it returns how many buffers, counted from 0, hold one.
func (b *batch) recv(fd int, wait bool) (int, error) {
	flags := uintptr(unix.MSG_WAITFORONE)
	if !wait {
		flags = unix.MSG_DONTWAIT
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd),
			uintptr(unsafe.Pointer(&b.msgs[0])), uintptr(len(b.msgs)), flags, 0, 0)
		runtime.KeepAlive(b)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}
