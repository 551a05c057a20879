// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memInfo reads SO_MEMINFO, which x/sys has no function for.
func memInfo(fd int, info *[9]uint32) error {
	size := uint32(unsafe.Sizeof(*info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// putSegment writes a UDP_SEGMENT control message into oob, which has room for
// a 2-byte one.
func putSegment(oob []byte, size uint16) []byte {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], size)
	return oob
}
