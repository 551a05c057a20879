// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// writeNow and readNow are write and read of a socket that does not block, or
// not for long; sendNow is a write that does not block on any. They do not
// tell the runtime that a system call is going on: it would hand the processor
// to another thread, and wake one, for a call that is over in microseconds.
func (s *sock) writeNow(b []byte) (int, error) { return rawIO(unix.SYS_WRITE, s.fd, b) }

func (s *sock) readNow(b []byte) (int, error) { return rawIO(unix.SYS_READ, s.fd, b) }

func (s *sock) sendNow(b []byte) (int, error) {
	return rawIO(unix.SYS_SENDTO, s.fd, b, unix.MSG_DONTWAIT)
}

// rawIO needs a buffer that is not empty. flags are for calls that have them.
func rawIO(call uintptr, fd int, b []byte, flags ...uintptr) (int, error) {
	var flag uintptr
	if len(flags) > 0 {
		flag = flags[0]
	}
	for {
		n, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), flag, 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// pollNow is poll(2) for a moment, in which EINTR is nothing.
func pollNow(fds []unix.PollFd, limit time.Duration) (int, error) {
	ts := unix.NsecToTimespec(int64(limit))
	n, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), uintptr(len(fds)), uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, errno
}
