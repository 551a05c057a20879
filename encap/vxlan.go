// SPDX-License-Identifier: Apache-2.0

package encap

import "encoding/binary"

// The VXLAN header (RFC 7348 section 5):
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|R|R|R|R|I|R|R|R|            reserved                           |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                       VNI                     |   reserved    |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
const (
	HeaderLen   = 8  // bytes of a VXLAN header
	EthernetLen = 14 // bytes of an Ethernet header without VLAN tags

	// DefaultPort is the UDP port that IANA gave to VXLAN.
	DefaultPort = 4789

	flagI        = 0x08000000 // the VNI is valid; must be set
	reservedMask = ^uint32(flagI)
)

// HeaderFault says what is wrong with a VXLAN header or the frame behind it;
// zero means nothing.
type HeaderFault uint8

// The ways in which a datagram can fail to be VXLAN. The kernel's driver drops
// all of them too (drivers/net/vxlan/vxlan_core.c, vxlan_rcv).
const (
	HeaderOK       HeaderFault = iota
	HeaderShort                // fewer than 8 bytes
	HeaderNoVNI                // I flag missing
	HeaderReserved             // a reserved bit is set; RFC 7348 would ignore it, the kernel drops and so do we
	HeaderNoFrame              // fewer than 14 bytes of inner frame
)

// PutHeader writes the header for v into b, which must hold HeaderLen bytes.
// v must be valid.
func PutHeader(b []byte, v VNI) {
	_ = b[7]
	binary.BigEndian.PutUint32(b, flagI)
	binary.BigEndian.PutUint32(b[4:], uint32(v)<<8)
}

// ParseHeader validates the header at the start of datagram d and that an
// Ethernet header follows it; the inner frame is then d[HeaderLen:].
func ParseHeader(d []byte) (VNI, HeaderFault) {
	if len(d) < HeaderLen {
		return 0, HeaderShort
	}
	flags := binary.BigEndian.Uint32(d)
	low := binary.BigEndian.Uint32(d[4:])
	switch {
	case flags&flagI == 0:
		return 0, HeaderNoVNI
	case flags&reservedMask != 0 || low&0xff != 0:
		return 0, HeaderReserved
	case len(d) < HeaderLen+EthernetLen:
		return VNI(low >> 8), HeaderNoFrame
	}
	return VNI(low >> 8), HeaderOK
}
