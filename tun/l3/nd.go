// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"encoding/binary"
	"net/netip"
)

// ICMPv6 types of neighbour discovery (RFC 4861 section 4).
const (
	ndRouterSolicitation  = 133
	ndRouterAdvertisement = 134
	ndSolicitation        = 135
	ndAdvertisement       = 136
	ndRedirect            = 137

	ndOptSource = 1
	ndOptTarget = 2

	ndLen    = 24 // solicitation and advertisement without options
	ndOptLen = 8  // a link-layer address option for Ethernet

	ndRouter    = 0x80 // flags of an advertisement
	ndSolicited = 0x40
	ndOverride  = 0x20
)

// ndType returns the ICMPv6 type of a neighbour discovery message directly on
// IPv6, and 0 for everything else. (One behind a fragment header is left to the
// kernel, which drops it: RFC 6980.)
func ndType(ip []byte) byte {
	if len(ip) < ipv6Len+1 || ip[6] != protoICMPv6 {
		return 0
	}
	if t := ip[ipv6Len]; t >= ndRouterSolicitation && t <= ndRedirect {
		return t
	}
	return 0
}

// parseND reads a neighbour solicitation or advertisement in an IPv6 packet
// that parseIP has accepted, with the checks of RFC 4861 sections 7.1.1 and
// 7.1.2.
func parseND(ip []byte, p *ipPacket) (m message, ok bool) {
	b := ip[ipv6Len:p.length]
	if len(b) < ndLen || ip[7] != 255 || b[1] != 0 || icmp6Sum(p.src, p.dst, b) != 0xffff {
		return m, false
	}
	m.answer = b[0] == ndAdvertisement
	m.sender = p.src
	m.target = netip.AddrFrom16([16]byte(b[8:24]))
	if m.target.IsMulticast() || m.target.IsUnspecified() || m.sender.IsMulticast() {
		return m, false
	}
	option := byte(ndOptSource)
	if m.answer {
		option = ndOptTarget
	}
	for o := b[ndLen:]; len(o) > 0; {
		if len(o) < 2 || o[1] == 0 || int(o[1])*8 > len(o) {
			return m, false
		}
		if o[0] == option && o[1] == 1 && !m.known {
			m.mac, m.known = [6]byte(o[2:8]), true
		}
		o = o[int(o[1])*8:]
	}
	if m.known && !station(m.mac) {
		return m, false
	}
	if m.answer {
		solicited := b[4]&ndSolicited != 0
		if p.dst.IsMulticast() && solicited || m.sender.IsUnspecified() {
			return m, false
		}
		m.toUs, m.override = solicited, b[4]&ndOverride != 0
		return m, true
	}
	if m.sender.IsUnspecified() && (m.known || p.dst != solicitedNode(m.target)) {
		return m, false
	}
	return m, true
}

// appendSolicitation appends a whole frame that asks who has target.
func appendSolicitation(b []byte, dstMAC, srcMAC [6]byte, src, dst, target netip.Addr) []byte {
	return appendND(b, dstMAC, srcMAC, src, dst, ndSolicitation, 0, target, ndOptSource)
}

// appendAdvertisement appends a whole frame that says that target is at srcMAC.
func appendAdvertisement(b []byte, dstMAC, srcMAC [6]byte, dst, target netip.Addr, flags byte) []byte {
	return appendND(b, dstMAC, srcMAC, target, dst, ndAdvertisement, flags, target, ndOptTarget)
}

func appendND(b []byte, dstMAC, srcMAC [6]byte, src, dst netip.Addr, kind, flags byte, target netip.Addr, option byte) []byte {
	const n = ndLen + ndOptLen
	var f [ethLen + ipv6Len + n]byte
	putEthernet(f[:], dstMAC, srcMAC, etherIPv6)
	putIPv6(f[ethLen:], src, dst, n, 255)
	p := f[ethLen+ipv6Len:]
	t := target.As16()
	p[0], p[4] = kind, flags
	copy(p[8:], t[:])
	p[24], p[25] = option, 1
	copy(p[26:], srcMAC[:])
	binary.BigEndian.PutUint16(p[2:], ^icmp6Sum(src, dst, p))
	return append(b, f[:]...)
}
