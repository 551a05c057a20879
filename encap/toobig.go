// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"encoding/binary"
	"net/netip"
)

// MaxTooBig is the most bytes that TooBig writes: IPv6 quotes as much as fits
// into its least MTU.
const MaxTooBig = EthernetLen + 4*maxVLANTags + 1280

// A Fit says how an inner packet relates to the path's MTU.
type Fit uint8

// What PacketFit finds.
const (
	Fits         Fit = iota // it is no larger, or is not IP
	Fragmentable            // it is larger, and its sender allows routers to fragment it
	TooLarge                // it is larger, and its sender wants to be told
)

// PacketFit compares the inner packet with what the path takes. frame is what
// a device passed in, and segSize the payload bytes of each of its segments if
// it is a super-frame, else 0.
func PacketFit(frame []byte, segSize int, mtu InnerMTU) Fit {
	l3, et, ok := networkHeader(frame)
	if !ok || et != etherIPv4 && et != etherIPv6 {
		return Fits
	}
	n := len(frame) - l3
	if segSize > 0 {
		if t, ok := parseTransport(frame, true); ok {
			n = min(n, t.payload-l3+segSize)
		}
	}
	switch {
	case n <= int(mtu):
		return Fits
	case et == etherIPv4 && (n < 20 || frame[l3+6]&0x40 == 0):
		return Fragmentable
	}
	return TooLarge
}

// TooBig writes to dst the answer that a router gives to a packet larger than
// mtu: "fragmentation needed" (ICMP, RFC 1191) or "packet too big" (ICMPv6, RFC
// 4443 section 3.2), as a frame to the sender, and returns its length. dst must
// hold MaxTooBig bytes. It returns 0 when no answer is due: the packet is itself
// an ICMP error, is from or to an address that cannot be answered, or mtu is
// below what every link must take (576 and 1280 bytes).
//
// Like the kernel (net/ipv4/ip_tunnel_core.c, iptunnel_pmtud_build_icmp) it
// answers in the name of the packet's destination, the only address known here.
func TooBig(dst, frame []byte, mtu InnerMTU) int {
	l3, et, ok := networkHeader(frame)
	if !ok {
		return 0
	}
	p := frame[l3:]
	copy(dst, frame[:l3])
	copy(dst, frame[6:12]) // destination: the sender
	copy(dst[6:], frame[:6])
	out := dst[l3:]
	switch {
	case et == etherIPv4 && len(p) >= 20 && p[0]>>4 == 4:
		ihl := int(p[0]&0xf) * 4
		src, to := netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
		if mtu < 576 || ihl < 20 || len(p) < ihl+8 || !answerable(src, to) || p[9] == 1 && icmpError(p[ihl]) {
			return 0
		}
		quote := min(len(p), 576-20-8)
		clear(out[:28])
		out[0], out[1] = 0x45, p[1]&^3|0xc0 // internetwork control, as routers send errors (RFC 1812 section 4.3.2.5)
		binary.BigEndian.PutUint16(out[2:], uint16(28+quote))
		out[6] = 0x40
		out[8], out[9] = 64, 1
		copy(out[12:16], p[16:20])
		copy(out[16:20], p[12:16])
		binary.BigEndian.PutUint16(out[10:], ^Checksum(out[:20], 0))
		out[20], out[21] = 3, 4
		binary.BigEndian.PutUint16(out[26:], uint16(mtu))
		copy(out[28:], p[:quote])
		binary.BigEndian.PutUint16(out[22:], ^Checksum(out[20:28+quote], 0))
		return l3 + 28 + quote
	case et == etherIPv6 && len(p) >= 48 && p[0]>>4 == 6:
		src, to := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
		if mtu < 1280 || !answerable(src, to) || p[6] == 58 && p[40] < 128 {
			return 0
		}
		quote := min(len(p), 1280-40-8)
		clear(out[:48])
		out[0] = 0x60
		binary.BigEndian.PutUint16(out[4:], uint16(8+quote))
		out[6], out[7] = 58, 64
		copy(out[8:24], p[24:40])
		copy(out[24:40], p[8:24])
		out[40] = 2
		binary.BigEndian.PutUint32(out[44:], uint32(mtu))
		copy(out[48:], p[:quote])
		sum := Checksum(out[8:40], 58)
		sum = add32(sum, uint32(8+quote))
		binary.BigEndian.PutUint16(out[42:], ^Checksum(out[40:48+quote], sum))
		return l3 + 48 + quote
	}
	return 0
}

// answerable reports whether an error about a packet may be sent (RFC 1122
// section 3.2.2).
func answerable(src, dst netip.Addr) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return !dst.IsMulticast() && dst != broadcast &&
		!src.IsMulticast() && src != broadcast && !src.IsUnspecified() && !src.IsLoopback()
}

// icmpError reports whether an ICMP type is an error rather than a query.
func icmpError(t byte) bool {
	switch t {
	case 3, 4, 5, 11, 12:
		return true
	}
	return false
}

// UDPDestination returns where an unfragmented inner UDP packet goes.
func UDPDestination(frame []byte) (netip.AddrPort, bool) {
	l3, et, ok := networkHeader(frame)
	if !ok {
		return netip.AddrPort{}, false
	}
	p := frame[l3:]
	switch {
	case et == etherIPv4 && len(p) >= 20 && p[9] == protoUDP:
		ihl := int(p[0]&0xf) * 4
		if ihl < 20 || len(p) < ihl+8 || binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
			return netip.AddrPort{}, false
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(p[16:20])), binary.BigEndian.Uint16(p[ihl+2:])), true
	case et == etherIPv6 && len(p) >= 48 && p[6] == protoUDP:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(p[24:40])), binary.BigEndian.Uint16(p[42:])), true
	}
	return netip.AddrPort{}, false
}
