// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"encoding/binary"
	"net/netip"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100 // 802.1Q
	etherQinQ = 0x88a8 // 802.1ad

	protoTCP = 6
	protoUDP = 17

	maxVLANTags = 2
)

// networkHeader steps over the Ethernet header and up to two VLAN tags and
// returns where the network header starts and its EtherType. It reports false
// when the frame ends before that or carries more tags.
func networkHeader(f []byte) (off int, etherType uint16, ok bool) {
	if len(f) < EthernetLen {
		return 0, 0, false
	}
	off = EthernetLen
	etherType = binary.BigEndian.Uint16(f[12:])
	for tags := 0; etherType == etherVLAN || etherType == etherQinQ; tags++ {
		if tags == maxVLANTags || len(f) < off+4 {
			return 0, 0, false
		}
		etherType = binary.BigEndian.Uint16(f[off+2:])
		off += 4
	}
	return off, etherType, true
}

// transport is where the layers of a TCP or UDP frame start, as offsets into
// it. All offsets were checked against the frame's length when it was made.
type transport struct {
	l3, l4  int
	payload int // first byte after the TCP or UDP header
	end     int // first byte after the IP packet; the frame may be padded beyond
	v6      bool
	proto   uint8
}

// parseTransport finds TCP or UDP directly on IPv4 or IPv6. It reports false
// for everything else: other protocols, IPv4 fragments, IPv6 extension headers
// (fragments among them), lengths that do not add up.
//
// For a super-frame (gso) the lengths in the headers are not looked at, since
// the kernel leaves there what it likes; the frame's own length counts.
func parseTransport(f []byte, gso bool) (t transport, ok bool) {
	l3, et, ok := networkHeader(f)
	if !ok {
		return t, false
	}
	t.l3 = l3
	switch et {
	case etherIPv4:
		if len(f) < l3+20 || f[l3]>>4 != 4 {
			return t, false
		}
		ihl := int(f[l3]&0xf) * 4
		total := int(binary.BigEndian.Uint16(f[l3+2:]))
		if gso {
			total = len(f) - l3
		}
		if ihl < 20 || total < ihl || len(f) < l3+total {
			return t, false
		}
		if binary.BigEndian.Uint16(f[l3+6:])&0x3fff != 0 { // more fragments, or an offset
			return t, false
		}
		t.l4, t.end, t.proto = l3+ihl, l3+total, f[l3+9]
	case etherIPv6:
		if len(f) < l3+40 || f[l3]>>4 != 6 {
			return t, false
		}
		total := 40 + int(binary.BigEndian.Uint16(f[l3+4:]))
		if gso {
			total = len(f) - l3
		}
		if len(f) < l3+total {
			return t, false
		}
		t.l4, t.end, t.proto, t.v6 = l3+40, l3+total, f[l3+6], true
	default:
		return t, false
	}
	switch t.proto {
	case protoTCP:
		if t.end < t.l4+20 {
			return t, false
		}
		t.payload = t.l4 + int(f[t.l4+12]>>4)*4
		return t, t.payload >= t.l4+20 && t.payload <= t.end
	case protoUDP:
		t.payload = t.l4 + 8
		if t.payload > t.end {
			return t, false
		}
		return t, gso || int(binary.BigEndian.Uint16(f[t.l4+4:])) == t.end-t.l4
	}
	return t, false
}

// checksumField is where the transport checksum stands in the frame.
func (t *transport) checksumField() int {
	if t.proto == protoTCP {
		return t.l4 + tcpCsumOffset
	}
	return t.l4 + udpCsumOffset
}

// addressSum is the part of the pseudo-header's sum that does not depend on
// the length (RFC 9293 section 3.1, RFC 8200 section 8.1).
func (t *transport) addressSum(f []byte) uint16 {
	if t.v6 {
		return Checksum(f[t.l3+8:t.l3+40], uint16(t.proto))
	}
	return Checksum(f[t.l3+12:t.l3+20], uint16(t.proto))
}

// pseudoSum is the whole pseudo-header's sum for n bytes of TCP or UDP.
func (t *transport) pseudoSum(f []byte, n int) uint16 {
	return add32(t.addressSum(f), uint32(n))
}

// InnerSource returns the network-layer source of an inner frame: the IP
// source, or for ARP the sender's protocol address. It reports false for
// frames that have none, or that end before it.
func InnerSource(frame []byte) (netip.Addr, bool) {
	l3, et, ok := networkHeader(frame)
	if !ok {
		return netip.Addr{}, false
	}
	p := frame[l3:]
	switch {
	case et == etherIPv4 && len(p) >= 20:
		return netip.AddrFrom4([4]byte(p[12:16])), true
	case et == etherIPv6 && len(p) >= 40:
		return netip.AddrFrom16([16]byte(p[8:24])), true
	case et == etherARP && len(p) >= 28 && p[4] == 6 && p[5] == 4:
		return netip.AddrFrom4([4]byte(p[14:18])), true
	}
	return netip.Addr{}, false
}
