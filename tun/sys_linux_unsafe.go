// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// System calls without the allocations that the wrappers in x/sys make for
// their convenience. All are for descriptors in non-blocking mode.

// errno is e as an error; small numbers are boxed without an allocation.
func errno(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// rawRead is read(2), again when a signal interrupted it.
func rawRead(fd int, b []byte) (int, error) {
	for {
		n, _, e := unix.Syscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if e == unix.EINTR {
			continue
		}
		return int(n), errno(e)
	}
}

// rawWritev is writev(2).
func rawWritev(fd int, iov []unix.Iovec) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iov))), uintptr(len(iov)))
		if e == unix.EINTR {
			continue
		}
		return errno(e)
	}
}

// readable is poll(2) for input, without waiting. Errors and hang-ups count as
// readable: the read that follows tells what they are.
func readable(fd int) bool {
	p := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	var zero unix.Timespec
	n, _, e := unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&zero)), 0, 0, 0)
	return e == 0 && n > 0
}

func appendIovec(iov []unix.Iovec, b []byte) []unix.Iovec {
	if len(b) == 0 {
		return iov
	}
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return append(iov, v)
}
