// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"encoding/binary"
	"errors"
)

// A GSO is the kind of segmentation that a super-frame still needs.
type GSO uint8

// The kinds that the kernel's TUN driver and this package know.
const (
	GSONone GSO = iota
	GSOTCP4     // TCP on IPv4
	GSOTCP6     // TCP on IPv6
	GSOUDP      // UDP, each segment a datagram of its own (USO)
)

// An Offload says what is still to be done to a frame that a device passes in
// or is handed: the checksum, the segmentation, or neither (the zero value).
// It is what virtio's net header carries (virtio 1.2, section 5.1.6).
type Offload struct {
	GSO     GSO
	SegSize uint16 // payload bytes of every segment but the last; GSO only
	HdrLen  uint16 // bytes of all headers; a hint of the device that is not relied on

	// NeedsCsum says that the checksum field at CsumStart+CsumOffset holds the
	// pseudo-header's sum, and that the sum from CsumStart to the end of the
	// frame is still to be added and inverted. Every super-frame has it.
	NeedsCsum  bool
	CsumStart  uint16
	CsumOffset uint16
}

const (
	tcpCsumOffset = 16
	udpCsumOffset = 6
)

// ErrOffload means that a device described a frame in a way that the frame's
// bytes contradict.
var ErrOffload = errors.New("the device's description of the frame does not fit its bytes")

// FinishChecksum writes the checksum that o says is missing from frame. It
// does nothing when none is; it is not for super-frames.
func FinishChecksum(frame []byte, o Offload) error {
	if !o.NeedsCsum {
		return nil
	}
	start, field := int(o.CsumStart), int(o.CsumStart)+int(o.CsumOffset)
	if start < EthernetLen || field+2 > len(frame) {
		return ErrOffload
	}
	sum := ^Checksum(frame[start:], 0)
	if sum == 0 && o.CsumOffset == udpCsumOffset {
		sum = 0xffff // zero would mean "no checksum" in UDP (RFC 768)
	}
	binary.BigEndian.PutUint16(frame[field:], sum)
	return nil
}
