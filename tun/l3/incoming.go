// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"encoding/binary"
	"time"

	"kohaku/encap"
)

// classify deals with one frame from the tunnel. It returns the length of the
// IP packet in it that the kernel is to get, without padding; or 0 when the
// frame was for the Device itself; or why it goes no further.
func (d *Device) classify(frame []byte, o encap.Offload) (n int, why Drop) {
	if len(frame) < ethLen {
		return 0, DropFrameShort
	}
	if dst := [6]byte(frame); dst != d.mac && !ipGroup(dst) {
		return 0, DropOtherMAC
	}
	payload := frame[ethLen:]
	etherType := binary.BigEndian.Uint16(frame[12:])
	switch etherType {
	case etherARP:
		m, ok := parseARP(payload, d.mac)
		if !ok {
			return 0, DropARPInvalid
		}
		return 0, d.hear(&m, [6]byte(frame[6:12]))
	case etherIPv4, etherIPv6:
	default:
		return 0, DropProtocol
	}
	p, ok := parseIP(payload)
	if !ok || p.etherType != etherType {
		return 0, DropIPInvalid
	}
	if etherType == etherIPv6 {
		switch ndType(payload) {
		case 0:
		case ndSolicitation, ndAdvertisement:
			m, ok := parseND(payload, &p)
			if !ok {
				return 0, DropNDInvalid
			}
			return 0, d.hear(&m, [6]byte(frame[6:12]))
		default:
			return 0, DropRouterND
		}
	}
	if encap.FinishChecksum(frame[:ethLen+p.length], o) != nil {
		return 0, DropBadOffload
	}
	return p.length, numDrops
}

// hear takes an ARP or neighbour discovery message that came from the station
// src. It returns numDrops when the message was of use.
func (d *Device) hear(m *message, src [6]byte) Drop {
	own := d.own.Load()
	about := m.sender
	if m.answer {
		about = m.target
	}
	if own.has(about) {
		return DropConflict
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	empty := d.out.empty()
	why := numDrops
	switch {
	case m.answer && m.toUs && d.table.answered(m, now):
	case m.answer:
		why = DropUnsolicited
	case own.has(m.target):
		why = d.reply(m, src)
		if m.known && !m.sender.IsUnspecified() {
			d.table.asked(m.sender, m.mac, now)
		}
	case m.sender == m.target:
		why = DropUnsolicited // an announcement by request (RFC 5227 section 3)
	default:
		return DropNotAsked
	}
	if why == DropUnsolicited && m.known {
		d.table.contradicted(m.target, m.mac, now)
	}
	d.arm()
	if empty && !d.out.empty() {
		d.src.kick()
	}
	return why
}

// reply answers a request for an address of ours. A solicitation need not name
// its sender's MAC address (RFC 4861 section 4.3); the answer then goes where
// the frame came from.
func (d *Device) reply(m *message, src [6]byte) Drop {
	b, ok := d.out.control()
	if !ok {
		return DropReplyFull
	}
	to := m.mac
	switch {
	case m.target.Is4():
		b = appendARP(b, arpReply, to, d.mac, m.target, to, m.sender)
	case m.sender.IsUnspecified():
		// Somebody wants to take our address (RFC 4862 section 5.4.3).
		b = appendAdvertisement(b, groupMAC(allNodes), d.mac, allNodes, m.target, d.flags(ndOverride))
	default:
		if !m.known {
			to = src
		}
		b = appendAdvertisement(b, to, d.mac, m.sender, m.target, d.flags(ndSolicited|ndOverride))
	}
	d.out.push(b, true)
	d.count.replies.Add(1)
	return numDrops
}

func (d *Device) flags(f byte) byte {
	if d.router {
		f |= ndRouter
	}
	return f
}
