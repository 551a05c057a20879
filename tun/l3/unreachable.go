// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"encoding/binary"
	"net/netip"

	"kohaku/encap"
)

// How much of the packet an ICMP error quotes: 576 bytes of IPv4 (RFC 1812
// section 4.3.2.3) and 1280 of IPv6 (RFC 4443 section 3.1) in all.
const (
	maxICMP4 = 576
	maxICMP6 = 1280
)

// appendUnreachable appends the IP packet that tells the sender of pkt that the
// next hop could not be resolved: "host unreachable" (RFC 792, type 3 code 1)
// or "address unreachable" (RFC 4443, type 1 code 3). It appends nothing when
// pkt is of a kind that must not be answered with an error (RFC 1122 section
// 3.2.2, RFC 4443 section 2.4).
//
// The error is sent in the name of the destination. Our own address would not
// do: the kernel takes no packet from outside that bears one of its own.
func appendUnreachable(b, pkt []byte) []byte {
	p, ok := parseIP(pkt)
	if !ok || p.src.IsUnspecified() || p.src.IsMulticast() || p.dst.IsMulticast() || p.src.IsLoopback() {
		return b
	}
	pkt = pkt[:p.length]
	if p.etherType == etherIPv4 {
		return appendUnreachable4(b, pkt, p.src, p.dst)
	}
	if !answerable6(pkt) {
		return b
	}
	quote := pkt[:min(len(pkt), maxICMP6-ipv6Len-8)]
	start := len(b)
	b = append(b, make([]byte, ipv6Len+8)...)
	b = append(b, quote...)
	out := b[start:]
	putIPv6(out, p.dst, p.src, len(out)-ipv6Len, 64)
	out[ipv6Len], out[ipv6Len+1] = 1, 3
	binary.BigEndian.PutUint16(out[ipv6Len+2:], ^icmp6Sum(p.dst, p.src, out[ipv6Len:]))
	return b
}

func appendUnreachable4(b, pkt []byte, src, dst netip.Addr) []byte {
	ihl := int(pkt[0]&0xf) * 4
	if binary.BigEndian.Uint16(pkt[6:])&0x1fff != 0 || src == netip.AddrFrom4([4]byte(broadcastMAC[:4])) {
		return b // not the first fragment
	}
	if pkt[9] == protoICMP {
		// Only the queries are known not to be errors themselves.
		if len(pkt) <= ihl || (pkt[ihl] != 0 && pkt[ihl] != 8 && pkt[ihl] != 13 && pkt[ihl] != 14) {
			return b
		}
	}
	quote := pkt[:min(len(pkt), maxICMP4-ipv4Len-8)]
	start := len(b)
	b = append(b, make([]byte, ipv4Len+8)...)
	b = append(b, quote...)
	out := b[start:]
	s, d := dst.As4(), src.As4()
	out[0], out[1] = 0x45, 0xc0 // precedence "internetwork control" (RFC 1812 section 4.3.2.5)
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	out[8], out[9] = 64, protoICMP
	copy(out[12:], s[:])
	copy(out[16:], d[:])
	binary.BigEndian.PutUint16(out[10:], ^encap.Checksum(out[:ipv4Len], 0))
	out[ipv4Len], out[ipv4Len+1] = 3, 1
	binary.BigEndian.PutUint16(out[ipv4Len+2:], ^encap.Checksum(out[ipv4Len:], 0))
	return b
}

// answerable6 reports whether an IPv6 packet is not an ICMPv6 error or redirect
// itself. Extension headers are stepped over as far as they are known.
func answerable6(pkt []byte) bool {
	next, off := pkt[6], ipv6Len
	for {
		switch next {
		case protoICMPv6:
			return off < len(pkt) && pkt[off] >= 128 && pkt[off] != ndRedirect
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if off+8 > len(pkt) {
				return false
			}
			next, off = pkt[off], off+8+int(pkt[off+1])*8
		case 44: // fragment: only the first one shows what it is
			if off+8 > len(pkt) || binary.BigEndian.Uint16(pkt[off+2:])&0xfff8 != 0 {
				return false
			}
			next, off = pkt[off], off+8
		default:
			return true
		}
	}
}
