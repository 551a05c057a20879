// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"encoding/binary"
	"net/netip"

	"kohaku/encap"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	ethLen  = encap.EthernetLen
	ipv4Len = 20
	ipv6Len = 40

	protoICMP   = 1
	protoUDP    = 17
	protoICMPv6 = 58
)

var broadcastMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// groupMAC maps a multicast address to its MAC address (RFC 1112 section 6.4,
// RFC 2464 section 7).
func groupMAC(a netip.Addr) [6]byte {
	if a.Is4() {
		b := a.As4()
		return [6]byte{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	}
	b := a.As16()
	return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// ipGroup reports whether mac is broadcast or one that groupMAC makes.
func ipGroup(mac [6]byte) bool {
	return mac == broadcastMAC || mac[0] == 0x33 && mac[1] == 0x33 ||
		mac[0] == 1 && mac[1] == 0 && mac[2] == 0x5e && mac[3]&0x80 == 0
}

// station reports whether mac can be the address of a single station.
func station(mac [6]byte) bool { return mac[0]&1 == 0 && mac != [6]byte{} }

// solicitedNode is the group that the owner of a listens to (RFC 4291 section
// 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

var allNodes = netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 1})

// putEthernet writes an Ethernet header.
func putEthernet(b []byte, dst, src [6]byte, etherType uint16) {
	copy(b, dst[:])
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], etherType)
}

// ipPacket is what is looked at in an IP packet.
type ipPacket struct {
	src, dst  netip.Addr
	etherType uint16
	length    int // as its header says; no more than there is
}

// parseIP checks version and lengths. Options and extension headers are not
// looked at.
func parseIP(b []byte) (p ipPacket, ok bool) {
	if len(b) == 0 {
		return p, false
	}
	switch b[0] >> 4 {
	case 4:
		if len(b) < ipv4Len {
			return p, false
		}
		ihl := int(b[0]&0xf) * 4
		p.length = int(binary.BigEndian.Uint16(b[2:]))
		if ihl < ipv4Len || p.length < ihl || p.length > len(b) {
			return p, false
		}
		p.src, p.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.etherType = etherIPv4
		return p, true
	case 6:
		if len(b) < ipv6Len {
			return p, false
		}
		p.length = ipv6Len + int(binary.BigEndian.Uint16(b[4:]))
		if p.length > len(b) {
			return p, false
		}
		p.src, p.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.etherType = etherIPv6
		return p, true
	}
	return p, false
}

// mendUDPChecksum writes 0xffff for a UDP checksum that turns out to be 0, as RFC
// 768 and RFC 8200 section 8.1 demand: wireguard's TUN, which finishes checksums
// for the kernel, leaves the 0, and over IPv6 every receiver drops such a datagram.
// One whose sender left the checksum out stays as it is.
func mendUDPChecksum(b []byte, p *ipPacket) {
	var udp, addrs []byte
	switch {
	case p.etherType == etherIPv6 && b[6] == protoUDP:
		udp, addrs = b[ipv6Len:], b[8:40]
	case p.etherType == etherIPv4 && b[9] == protoUDP && binary.BigEndian.Uint16(b[6:])&0x3fff == 0:
		udp, addrs = b[int(b[0]&0xf)*4:], b[12:20]
	}
	if len(udp) < 8 || udp[6]|udp[7] != 0 || int(binary.BigEndian.Uint16(udp[4:])) != len(udp) {
		return
	}
	length := [4]byte{2: byte(len(udp) >> 8), 3: byte(len(udp))}
	sum := encap.Checksum(length[:], encap.Checksum(addrs, protoUDP))
	if encap.Checksum(udp, sum) == 0xffff {
		udp[6], udp[7] = 0xff, 0xff
	}
}

// icmp6Sum is the sum of an ICMPv6 message with its pseudo-header (RFC 8200
// section 8.1): 0xffff when its checksum is right.
func icmp6Sum(src, dst netip.Addr, msg []byte) uint16 {
	var pseudo [40]byte
	s, d := src.As16(), dst.As16()
	copy(pseudo[:], s[:])
	copy(pseudo[16:], d[:])
	binary.BigEndian.PutUint32(pseudo[32:], uint32(len(msg)))
	pseudo[39] = protoICMPv6
	return encap.Checksum(msg, encap.Checksum(pseudo[:], 0))
}

// putIPv6 writes an IPv6 header for n bytes of ICMPv6.
func putIPv6(b []byte, src, dst netip.Addr, n int, hops byte) {
	s, d := src.As16(), dst.As16()
	b[0], b[1], b[2], b[3] = 0x60, 0, 0, 0
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	b[6], b[7] = protoICMPv6, hops
	copy(b[8:], s[:])
	copy(b[24:], d[:])
}
