// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// memInfo is what SO_MEMINFO gives, up to the drops
// (SK_MEMINFO_DROPS in include/uapi/linux/sock_diag.h).
type memInfo [9]uint32

const memInfoDrops = 8

// SocketDrops counts the datagrams that the kernel dropped because the engine did
// not read its sockets fast enough, since the engine was made. ok is false where
// the kernel does not tell (before 4.12), and after Close.
func (e *Engine) SocketDrops() (n uint64, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock() // Close marks the engine before it closes the sockets
	if e.closed {
		return 0, false
	}
	for _, s := range e.sockets {
		var info memInfo
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(s.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 || int(size) < int(unsafe.Sizeof(info)) {
			return 0, false
		}
		n += uint64(info[memInfoDrops])
	}
	return n, true
}
