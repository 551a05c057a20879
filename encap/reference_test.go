// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"encoding/binary"
	"math/rand/v2"
)

// The slow, obvious twins that judge the fast code. They share nothing with it
// but constants, and favour plainness over speed everywhere.

// slowSum is RFC 1071 word by word.
func slowSum(parts ...[]byte) uint16 {
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	sum := 0
	for i := 0; i < len(all); i += 2 {
		sum += int(all[i])<<8 + int(all[i+1])
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

func slowPseudo(src, dst []byte, proto byte, n int) []byte {
	b := append(append([]byte{}, src...), dst...)
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	return append(b, 0, proto)
}

// packet is a TCP or UDP frame in fields.
type packet struct {
	v6      bool
	vlans   []uint16 // VLAN ids, outermost first
	udp     bool
	tos     byte
	ttl     byte
	id      uint16
	df      bool
	ipOpts  []byte // length a multiple of 4
	srcPort uint16
	seq     uint32
	ack     uint32
	flags   byte
	window  uint16
	tcpOpts []byte // length a multiple of 4
	payload []byte
}

// headers returns the lengths of everything before the IP header and before
// the payload.
func (p packet) headers() (l3, l4, payload int) {
	l3 = 14 + 4*len(p.vlans)
	l4 = l3 + 20 + len(p.ipOpts)
	if p.v6 {
		l4 = l3 + 40
	}
	if p.udp {
		return l3, l4, l4 + 8
	}
	return l3, l4, l4 + 20 + len(p.tcpOpts)
}

// bytes builds the whole frame with right lengths and checksums.
func (p packet) bytes() []byte {
	f := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for _, id := range p.vlans {
		f = append(f, 0x81, 0x00, byte(id>>8), byte(id))
	}
	var l4 []byte
	if p.udp {
		l4 = binary.BigEndian.AppendUint16(l4, p.srcPort)
		l4 = binary.BigEndian.AppendUint16(l4, 9000)
		l4 = binary.BigEndian.AppendUint16(l4, uint16(8+len(p.payload)))
		l4 = append(l4, 0, 0)
	} else {
		l4 = binary.BigEndian.AppendUint16(l4, p.srcPort)
		l4 = binary.BigEndian.AppendUint16(l4, 9000)
		l4 = binary.BigEndian.AppendUint32(l4, p.seq)
		l4 = binary.BigEndian.AppendUint32(l4, p.ack)
		l4 = append(l4, byte((20+len(p.tcpOpts))/4)<<4, p.flags)
		l4 = binary.BigEndian.AppendUint16(l4, p.window)
		l4 = append(l4, 0, 0, 0, 0)
		l4 = append(l4, p.tcpOpts...)
	}
	l4 = append(l4, p.payload...)

	proto, field := byte(6), 16
	if p.udp {
		proto, field = 17, 6
	}
	src, dst := []byte{10, 1, 0, 2}, []byte{10, 2, 0, 2}
	if p.v6 {
		src = []byte{0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
		dst = []byte{0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2}
	}
	sum := ^slowSum(slowPseudo(src, dst, proto, len(l4)), l4)
	if p.udp && sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(l4[field:], sum)

	if p.v6 {
		f = append(f, 0x86, 0xdd)
		f = append(f, 0x60|p.tos>>4, p.tos<<4, 0x12, 0x34)
		f = binary.BigEndian.AppendUint16(f, uint16(len(l4)))
		f = append(f, proto, p.ttl)
		f = append(append(f, src...), dst...)
		return append(f, l4...)
	}
	f = append(f, 0x08, 0x00)
	ip := []byte{0x40 | byte(5+len(p.ipOpts)/4), p.tos}
	ip = binary.BigEndian.AppendUint16(ip, uint16(20+len(p.ipOpts)+len(l4)))
	ip = binary.BigEndian.AppendUint16(ip, p.id)
	if p.df {
		ip = append(ip, 0x40, 0)
	} else {
		ip = append(ip, 0, 0)
	}
	ip = append(ip, p.ttl, proto, 0, 0)
	ip = append(append(append(ip, src...), dst...), p.ipOpts...)
	binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip))
	return append(append(f, ip...), l4...)
}

// super returns the frame as a device passes a super-frame: the checksum field
// holds the pseudo-header's sum only.
func (p packet) super(segSize int) ([]byte, Offload) {
	f := p.bytes()
	_, l4, payload := p.headers()
	o := Offload{SegSize: uint16(segSize), HdrLen: uint16(payload), NeedsCsum: true, CsumStart: uint16(l4), CsumOffset: 16}
	proto := byte(6)
	switch {
	case p.udp:
		o.GSO, o.CsumOffset, proto = GSOUDP, 6, 17
	case p.v6:
		o.GSO = GSOTCP6
	default:
		o.GSO = GSOTCP4
	}
	l3, _, _ := p.headers()
	src, dst := f[l3+12:l3+16], f[l3+16:l3+20]
	if p.v6 {
		src, dst = f[l3+8:l3+24], f[l3+24:l3+40]
	}
	sum := slowSum(slowPseudo(src, dst, proto, len(f)-l4))
	binary.BigEndian.PutUint16(f[l4+int(o.CsumOffset):], sum)
	return f, o
}

// slowCut returns the frames that a super-frame stands for.
func (p packet) slowCut(segSize int) [][]byte {
	var out [][]byte
	for i, off := 0, 0; off < len(p.payload); i, off = i+1, off+segSize {
		s := p
		s.payload = p.payload[off:min(off+segSize, len(p.payload))]
		s.seq = p.seq + uint32(off)
		s.id = p.id + uint16(i)
		if i > 0 {
			s.flags &^= tcpCWR
		}
		if off+segSize < len(p.payload) {
			s.flags &^= tcpFIN | tcpPSH
		}
		out = append(out, s.bytes())
	}
	return out
}

// randomPacket makes a packet with every optional part now and then, whose
// frame is at most 65535 bytes behind the Ethernet header.
func randomPacket(r *rand.Rand) packet {
	bytes := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	p := packet{
		v6: r.IntN(2) == 0, udp: r.IntN(3) == 0, tos: byte(r.Uint32()) &^ 3, ttl: byte(1 + r.IntN(255)),
		id: uint16(r.Uint32()), df: r.IntN(2) == 0, srcPort: uint16(r.Uint32()), seq: r.Uint32(), ack: r.Uint32(),
		flags: tcpACK, window: uint16(r.Uint32()), payload: bytes(1 + r.IntN(20000)),
	}
	if r.IntN(3) == 0 {
		p.flags |= tcpPSH
	}
	if r.IntN(5) == 0 {
		p.flags |= tcpFIN
	}
	if r.IntN(3) > 0 {
		p.tcpOpts = append([]byte{1, 1, 8, 10}, bytes(8)...)
	}
	return p
}
