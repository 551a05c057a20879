// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"encoding/binary"

	"kohaku/encap"
)

// struct virtio_net_hdr (include/uapi/linux/virtio_net.h), ten bytes in the
// machine's own byte order:
//
//	0 flags   1 gso_type   2 hdr_len   4 gso_size   6 csum_start   8 csum_offset
const (
	vnetHdrLen = Headroom

	vnetNeedsCsum = 1

	vnetGSONone = 0
	vnetGSOTCP4 = 1
	vnetGSOTCP6 = 4
	vnetGSOUDP4 = 5 // VIRTIO_NET_HDR_GSO_UDP_L4
	vnetGSOECN  = 0x80
)

// parseVnetHdr reads the header in front of a frame. The kernel is trusted to
// write one of the kinds that were asked for; an unknown kind reports false.
func parseVnetHdr(b []byte) (o encap.Offload, ok bool) {
	_ = b[vnetHdrLen-1]
	switch b[1] &^ vnetGSOECN {
	case vnetGSONone:
	case vnetGSOTCP4:
		o.GSO = encap.GSOTCP4
	case vnetGSOTCP6:
		o.GSO = encap.GSOTCP6
	case vnetGSOUDP4:
		o.GSO = encap.GSOUDP
	default:
		return o, false
	}
	o.HdrLen = binary.NativeEndian.Uint16(b[2:])
	o.SegSize = binary.NativeEndian.Uint16(b[4:])
	if b[0]&vnetNeedsCsum != 0 {
		o.NeedsCsum = true
		o.CsumStart = binary.NativeEndian.Uint16(b[6:])
		o.CsumOffset = binary.NativeEndian.Uint16(b[8:])
	}
	return o, true
}

// putVnetHdr is the inverse.
func putVnetHdr(b []byte, o encap.Offload) {
	_ = b[vnetHdrLen-1]
	clear(b[:vnetHdrLen])
	if o.NeedsCsum {
		b[0] = vnetNeedsCsum
		binary.NativeEndian.PutUint16(b[6:], o.CsumStart)
		binary.NativeEndian.PutUint16(b[8:], o.CsumOffset)
	}
	if o.GSO == encap.GSONone {
		return
	}
	b[1] = [...]byte{encap.GSOTCP4: vnetGSOTCP4, encap.GSOTCP6: vnetGSOTCP6, encap.GSOUDP: vnetGSOUDP4}[o.GSO]
	binary.NativeEndian.PutUint16(b[2:], o.HdrLen)
	binary.NativeEndian.PutUint16(b[4:], o.SegSize)
}
