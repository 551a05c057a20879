// SPDX-License-Identifier: Apache-2.0

package ethtool

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctl forms of include/uapi/linux/ethtool.h: a command word, a count, and
// the values.
const (
	featureStrings = 4  // ETH_SS_FEATURES
	featureNameLen = 32 // ETH_GSTRING_LEN
)

// ifreqData is struct ifreq with a pointer in its union.
type ifreqData struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// ioctl sends buf, which begins with an ethtool command, and leaves the answer in it.
func (d *Device) ioctl(buf []byte) error {
	var req ifreqData
	if len(d.name) >= len(req.name) {
		return fmt.Errorf("device name %q: %w", d.name, unix.EINVAL)
	}
	copy(req.name[:], d.name)
	req.data = unsafe.Pointer(&buf[0])
	var pin runtime.Pinner
	pin.Pin(&buf[0])
	defer pin.Unpin()
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}

// featureNames asks for the kernel's feature names in bit order.
func (d *Device) featureNames() ([]string, error) {
	// struct ethtool_sset_info with room for one count.
	info := make([]byte, 20)
	binary.NativeEndian.PutUint32(info, unix.ETHTOOL_GSSET_INFO)
	binary.NativeEndian.PutUint64(info[8:], 1<<featureStrings)
	if err := d.ioctl(info); err != nil {
		return nil, fmt.Errorf("ETHTOOL_GSSET_INFO: %w", err)
	}
	n := binary.NativeEndian.Uint32(info[16:])
	// struct ethtool_gstrings.
	buf := make([]byte, 12+int(n)*featureNameLen)
	binary.NativeEndian.PutUint32(buf, unix.ETHTOOL_GSTRINGS)
	binary.NativeEndian.PutUint32(buf[4:], featureStrings)
	binary.NativeEndian.PutUint32(buf[8:], n)
	if err := d.ioctl(buf); err != nil {
		return nil, fmt.Errorf("ETHTOOL_GSTRINGS: %w", err)
	}
	names := make([]string, n)
	for i := range names {
		names[i] = cString(buf[12+i*featureNameLen:][:featureNameLen])
	}
	return names, nil
}

// get returns the state of all features.
func (d *Device) get() ([]block, error) {
	blocks := make([]block, (len(d.names)+31)/32)
	buf := make([]byte, 8+len(blocks)*16)
	binary.NativeEndian.PutUint32(buf, unix.ETHTOOL_GFEATURES)
	binary.NativeEndian.PutUint32(buf[4:], uint32(len(blocks)))
	if err := d.ioctl(buf); err != nil {
		return nil, fmt.Errorf("ETHTOOL_GFEATURES: %w", err)
	}
	for i := range blocks {
		b := buf[8+i*16:]
		blocks[i] = block{
			Available:    binary.NativeEndian.Uint32(b),
			Requested:    binary.NativeEndian.Uint32(b[4:]),
			Active:       binary.NativeEndian.Uint32(b[8:]),
			NeverChanged: binary.NativeEndian.Uint32(b[12:]),
		}
	}
	return blocks, nil
}

// set requests features. The ioctl's positive answers (some of the
// wishes have no effect now) are not errors.
func (d *Device) set(wishes []wish) error {
	buf := make([]byte, 8+len(wishes)*8)
	binary.NativeEndian.PutUint32(buf, unix.ETHTOOL_SFEATURES)
	binary.NativeEndian.PutUint32(buf[4:], uint32(len(wishes)))
	for i, b := range wishes {
		binary.NativeEndian.PutUint32(buf[8+i*8:], b.Valid)
		binary.NativeEndian.PutUint32(buf[12+i*8:], b.Requested)
	}
	return d.ioctl(buf)
}
