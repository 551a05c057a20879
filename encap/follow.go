// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"bytes"
	"encoding/binary"
)

// Bytes of an IPv4 header that differ between segments of one flow, in words of
// eight bytes counted from the frame's begin, as they lie in memory.
const (
	wordID       = 2 // bytes 16 to 23
	maskID       = ^uint64(0xffff << 16)
	wordChecksum = 3 // bytes 24 to 31
	maskChecksum = ^uint64(0xffff)
)

// follow is the short way of Add for nearly every frame of bulk: a TCP segment
// of full length that continues the run into which the frame before went, and
// whose header differs from that of the run's first segment in nothing but what
// counts up. It reports false, and has done nothing, for anything else.
func (m *Merger) follow(f []byte, tag uint32) bool {
	if m.last == 0 {
		return false
	}
	r := &m.runs[m.last-1]
	if r.closed || r.Tag != tag || len(f) != r.t.payload+r.segLen || r.t.proto != protoTCP || r.full() {
		return false
	}
	h := r.Parts[0]
	var id uint16
	if r.t.v6 {
		// An open run has no extension headers.
		if !bytes.Equal(h[:EthernetLen+40], f[:EthernetLen+40]) {
			return false
		}
	} else {
		// Nor options: 34 bytes.
		h, f := (*[EthernetLen + 20]byte)(h), (*[EthernetLen + 20]byte)(f)
		d := word(h, 0) ^ word(f, 0)
		d |= word(h, 1) ^ word(f, 1)
		d |= (word(h, wordID) ^ word(f, wordID)) & maskID
		d |= (word(h, wordChecksum) ^ word(f, wordChecksum)) & maskChecksum
		if d != 0 || h[32] != f[32] || h[33] != f[33] {
			return false
		}
		id = binary.BigEndian.Uint16(f[18:])
		if !r.idFollows(id, f[20]&0x40 != 0) || !headerSumRight(f) {
			return false
		}
	}
	if !r.tcpFollows(h[r.t.l4:r.t.payload], f[r.t.l4:r.t.payload]) || Checksum(f[r.t.l4:], r.pseudo) != 0xffff {
		return false
	}
	r.Parts = append(r.Parts, f[r.t.payload:])
	r.Frames++
	r.bytes += r.segLen
	r.next += uint32(r.segLen)
	r.fixed = !r.t.v6 && id == r.id
	r.id = id
	r.merged = true
	return true
}

// word is the i-th word of a header.
func word(b *[EthernetLen + 20]byte, i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }

// headerSumRight reports whether the checksum of an IPv4 header without options
// is right.
func headerSumRight(f *[EthernetLen + 20]byte) bool {
	a, b := binary.LittleEndian.Uint64(f[14:]), binary.LittleEndian.Uint64(f[22:])
	s := a>>32 + a&0xffffffff + b>>32 + b&0xffffffff + uint64(binary.LittleEndian.Uint32(f[30:]))
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	return fold(uint32(s)) == 0xffff
}

// full reports whether one more segment would make the run more than one call can
// send, should the super-frame be routed into another tunnel: there it would cost a
// call of its own.
func (r *Run) full() bool {
	return r.Frames == MaxSegments || (r.Frames+1)*(HeaderLen+r.t.payload+r.segLen) > MaxSend
}

// idFollows reports whether an IPv4 identification goes on as the run's do: all
// count up, or all are the same where they carry no meaning (df, RFC 6864).
func (r *Run) idFollows(id uint16, df bool) bool {
	switch {
	case id == r.id+1:
		return !(r.fixed && r.Frames > 1)
	case id == r.id:
		return df && (r.fixed || r.Frames == 1)
	}
	return false
}

// tcpFollows reports whether a TCP header is the run's next: everything as in h,
// the first's, but for the sequence number and the checksum.
func (r *Run) tcpFollows(h, f []byte) bool {
	a, b := (*[20]byte)(h), (*[20]byte)(f)
	d := binary.LittleEndian.Uint32(a[0:]) ^ binary.LittleEndian.Uint32(b[0:])           // ports
	d |= binary.BigEndian.Uint32(b[4:]) ^ r.next                                         // sequence
	d |= binary.LittleEndian.Uint32(a[8:]) ^ binary.LittleEndian.Uint32(b[8:])           // acknowledgement
	d |= binary.LittleEndian.Uint32(a[12:]) ^ binary.LittleEndian.Uint32(b[12:])         // flags, window
	d |= uint32(binary.LittleEndian.Uint16(a[18:]) ^ binary.LittleEndian.Uint16(b[18:])) // urgent pointer
	return d == 0 && bytes.Equal(h[20:], f[20:])
}
