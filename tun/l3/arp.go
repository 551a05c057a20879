// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"encoding/binary"
	"net/netip"
)

// A question or an answer about who has an address: what ARP and neighbour
// discovery have in common.
type message struct {
	answer bool
	sender netip.Addr // who says it; unspecified for one who has no address yet
	mac    [6]byte    // the sender's (of an ND answer: the target's); valid if known
	known  bool
	target netip.Addr // the address that it is about
	// Of an answer: that it was sent to us alone and not to all, and that it
	// may replace what is known.
	toUs, override bool
}

// ARP for IPv4 on Ethernet (RFC 826), 28 bytes:
//
//	0 hardware 1   2 protocol 0x0800   4 lengths 6, 4   6 operation
//	8 sender MAC   14 sender IP        18 target MAC    24 target IP
const arpLen = 28

const (
	arpRequest = 1
	arpReply   = 2
)

// parseARP reads an ARP packet; what follows it is padding.
func parseARP(b []byte, ours [6]byte) (m message, ok bool) {
	if len(b) < arpLen || binary.BigEndian.Uint16(b) != 1 || binary.BigEndian.Uint16(b[2:]) != etherIPv4 || b[4] != 6 || b[5] != 4 {
		return m, false
	}
	op := binary.BigEndian.Uint16(b[6:])
	if op != arpRequest && op != arpReply {
		return m, false
	}
	m.answer = op == arpReply
	m.mac, m.known = [6]byte(b[8:14]), true
	m.sender, m.target = netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	if !station(m.mac) || !unicast4(m.sender) && !m.sender.IsUnspecified() {
		return m, false
	}
	if m.answer {
		// The reply is about its sender.
		m.toUs = [6]byte(b[18:24]) == ours
		m.target, m.override = m.sender, true
		if m.sender.IsUnspecified() {
			return m, false
		}
	}
	return m, true
}

func unicast4(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a.As4()[0] < 240
}

// appendARP appends a whole frame.
func appendARP(b []byte, op uint16, dst, srcMAC [6]byte, src netip.Addr, targetMAC [6]byte, target netip.Addr) []byte {
	var f [ethLen + arpLen]byte
	putEthernet(f[:], dst, srcMAC, etherARP)
	p := f[ethLen:]
	binary.BigEndian.PutUint16(p, 1)
	binary.BigEndian.PutUint16(p[2:], etherIPv4)
	p[4], p[5] = 6, 4
	binary.BigEndian.PutUint16(p[6:], op)
	s, t := src.As4(), target.As4()
	copy(p[8:], srcMAC[:])
	copy(p[14:], s[:])
	copy(p[18:], targetMAC[:])
	copy(p[24:], t[:])
	return append(b, f[:]...)
}
