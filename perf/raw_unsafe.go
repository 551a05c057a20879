// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// writeNow and readNow are write and read of a non-blocking socket. They do not
// tell the runtime that a system call is going on: it would hand the processor
// to another thread, and wake one, for a call that is over in microseconds.
func (s *sock) writeNow(b []byte) (int, error) { return rawIO(unix.SYS_WRITE, s.fd, b) }

func (s *sock) readNow(b []byte) (int, error) { return rawIO(unix.SYS_READ, s.fd, b) }

// rawIO needs a buffer that is not empty.
func rawIO(call uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}
