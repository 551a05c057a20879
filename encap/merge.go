// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"bytes"
	"encoding/binary"
)

// MaxRuns limits a Merger; Add asks for a flush when it is reached.
const MaxRuns = 128 // frames and super-frames between two calls of Reset

// A Run is what leaves a Merger: one frame, or several merged into a
// super-frame. Concatenated, Parts is the frame; Offload says what a device is
// still to do to it.
type Run struct {
	Parts   [][]byte
	Offload Offload
	Tag     uint32 // as given to Add
	Frames  int    // how many frames went into it

	// Partial says that the frame came with a checksum that its sender left
	// for hardware to finish, and that Offload passes that on.
	Partial bool

	t      transport
	segLen int
	bytes  int    // length of the frame so far
	next   uint32 // TCP: the sequence number that continues the run
	id     uint16 // IPv4: identification of the last frame
	fixed  bool   // IPv4: the identification does not count (RFC 6864)
	pseudo uint16 // TCP: the pseudo-header's sum of a segment of full length
	closed bool
	merged bool
}

// A Merger takes frames in the order of their arrival and merges runs of TCP
// segments, or of UDP datagrams, of one flow into super-frames, much as the
// kernel's GRO does (net/ipv4/tcp_offload.c, tcp_gro_receive). Frames of one
// flow leave in the order in which they came. Cutting a super-frame that it
// made gives back the frames that went in, bit for bit, but for the IPv4
// identification of datagrams with DF set (which carries no meaning, RFC 6864).
//
// It refers to the frames' bytes, and rewrites headers in them, until Reset.
// Not for concurrent use.
//
// What is merged has had its checksums verified, since it is handed on with
// the mark "verified". What is not merged is handed on as it came, with one
// exception, a frame with a partial checksum: a sender behind a virtual NIC
// (or a kernel VXLAN device behind veth) may leave only the pseudo-header's sum
// in the checksum field, because the frame never met hardware that would have
// finished it. Such a frame is marked NeedsCsum, so that our own kernel
// finishes it.
type Merger struct {
	runs  [MaxRuns]Run
	n     int
	last  int16      // 1 + index of the run that the frame before went into; 0: none
	table [256]int16 // flow hash to 1 + index of the flow's newest run
}

// Allow says what a frame's device can take merged.
type Allow struct {
	TCP bool // TCP segments, as GSOTCP4 and GSOTCP6
	UDP bool // UDP datagrams, as GSOUDP
}

// Runs returns what has been collected, in the order in which it must be
// delivered. It is valid until Reset.
func (m *Merger) Runs() []Run { return m.runs[:m.n] }

// Reset forgets everything; the frames' bytes belong to their owner again.
func (m *Merger) Reset() {
	for i := range m.runs[:m.n] {
		m.runs[i].Parts = m.runs[i].Parts[:0]
	}
	m.n, m.last = 0, 0
	clear(m.table[:])
}

// Add takes one inner frame of at least EthernetLen bytes. Frames with
// different tags are never merged. It reports false, and has not taken the
// frame, when there is no room: the caller delivers Runs, calls Reset and adds
// the frame again.
func (m *Merger) Add(frame []byte, tag uint32, allow Allow) bool {
	if m.follow(frame, tag) {
		return true
	}
	t, ok := parseTransport(frame, false)
	if !ok {
		// It may be part of any flow (a fragment, say), so nothing that comes
		// after it may be appended to what came before it.
		if m.n == MaxRuns {
			return false
		}
		clear(m.table[:])
		m.push(frame, tag)
		return true
	}

	newest := &m.table[slot(frame, &t, tag)]
	if *newest != 0 {
		r := &m.runs[*newest-1]
		if !r.closed && extends(r, frame, &t, tag) {
			if verify(frame, &t) {
				r.append(frame, &t)
				m.last = *newest
				return true
			}
		}
	}
	if m.n == MaxRuns {
		return false
	}
	r := m.push(frame, tag)
	r.t = t
	r.closed = true
	*newest = int16(m.n)
	switch {
	case allow.mergeable(frame, &t) && verify(frame, &t):
		r.closed = false
		r.segLen = t.end - t.payload
		if t.proto == protoTCP {
			r.next = binary.BigEndian.Uint32(frame[t.l4+4:]) + uint32(r.segLen)
			r.pseudo = t.pseudoSum(frame, t.end-t.l4)
			if frame[t.l4+13]&(tcpPSH|tcpFIN) != 0 {
				r.closed = true
			}
		}
		if !t.v6 {
			r.id = binary.BigEndian.Uint16(frame[t.l3+4:])
		}
	case partial(frame, &t):
		r.Partial = true
		r.Offload = t.checksumOffload()
	}
	return true
}

// WholeSuperFrame reports whether frame is a TCP or UDP super-frame: a sender
// that shares our machine, or its NIC's driver, may have left it to hardware
// that it never met to cut one. segSize is the size of its segments if known,
// else 0, and mtu then what a single packet may measure.
//
// It looks at lengths alone, and only where they can matter: a true frame of
// more than mtu bytes (it was fragmented outside) may be taken for a super-frame
// of TCP, which changes nothing for a byte stream.
func WholeSuperFrame(frame []byte, segSize int, mtu InnerMTU) bool {
	t, ok := parseTransport(frame, false)
	if !ok || t.end != len(frame) {
		return false
	}
	if segSize > 0 {
		return t.end-t.payload > segSize
	}
	return t.proto == protoTCP && t.end-t.l3 > int(mtu) && t.payload-t.l3 < int(mtu)
}

// AddSuper takes a frame for which WholeSuperFrame is true, with the same
// arguments. Its checksum may be whole or partial; when it is neither, the frame
// is passed on as it came. The result is as Add's.
func (m *Merger) AddSuper(frame []byte, tag uint32, segSize int, mtu InnerMTU) bool {
	if m.n == MaxRuns {
		return false
	}
	t, ok := parseTransport(frame, false)
	clear(m.table[:])
	r := m.push(frame, tag)
	if !ok {
		return true
	}
	switch {
	case partial(frame, &t):
		r.Partial = true
	case verify(frame, &t):
		binary.BigEndian.PutUint16(frame[t.checksumField():], t.pseudoSum(frame, t.end-t.l4))
	default:
		return true
	}
	if segSize == 0 {
		segSize = int(mtu) - (t.payload - t.l3)
	}
	r.Offload = t.superOffload(segSize)
	return true
}

// checksumOffload describes a frame whose checksum field holds the
// pseudo-header's sum.
func (t *transport) checksumOffload() Offload {
	return Offload{NeedsCsum: true, CsumStart: uint16(t.l4), CsumOffset: uint16(t.checksumField() - t.l4)}
}

// superOffload describes a super-frame; its checksum field is such as well.
func (t *transport) superOffload(segSize int) Offload {
	o := t.checksumOffload()
	o.SegSize, o.HdrLen = uint16(segSize), uint16(t.payload)
	switch {
	case t.proto == protoUDP:
		o.GSO = GSOUDP
	case t.v6:
		o.GSO = GSOTCP6
	default:
		o.GSO = GSOTCP4
	}
	return o
}

func (m *Merger) push(frame []byte, tag uint32) *Run {
	r := &m.runs[m.n]
	m.n++
	m.last = int16(m.n)
	*r = Run{Parts: append(r.Parts[:0], frame), Tag: tag, Frames: 1, bytes: len(frame), closed: true}
	return r
}

// slot hashes the flow. A collision ends runs early and does no other harm.
func slot(f []byte, t *transport, tag uint32) uint8 {
	ports := binary.LittleEndian.Uint32(f[t.l4:])
	a := binary.LittleEndian.Uint32(f[t.l4-4:]) // the end of the destination address or of IPv4 options
	b := binary.LittleEndian.Uint32(f[t.l4-8:])
	return uint8(mix(uint64(a)<<32|uint64(b), uint64(ports)<<8^uint64(tag)) >> 56)
}

// mergeable reports whether a frame may start a run: nothing about it may
// differ from what a cut segment looks like.
func (a Allow) mergeable(f []byte, t *transport) bool {
	if t.end != len(f) || t.payload == t.end || t.l3 != EthernetLen {
		return false // padded, empty, or tagged
	}
	if !t.v6 && t.l4 != t.l3+20 {
		return false // options
	}
	if t.proto == protoUDP {
		return a.UDP && binary.BigEndian.Uint16(f[t.l4+6:]) != 0
	}
	const allowed = tcpACK | tcpPSH | tcpFIN
	flags := binary.BigEndian.Uint16(f[t.l4+12:]) & 0xfff
	return a.TCP && flags&tcpACK != 0 && flags&^allowed == 0
}

// extends reports whether frame continues r, except for its checksums.
func extends(r *Run, f []byte, t *transport, tag uint32) bool {
	if r.Tag != tag || r.t != (transport{t.l3, t.l4, t.payload, r.t.end, t.v6, t.proto}) || t.end != len(f) {
		return false
	}
	n := t.end - t.payload
	if n == 0 || n > r.segLen {
		return false
	}
	if r.full() {
		return false
	}
	h := r.Parts[0]
	if !bytes.Equal(h[:EthernetLen], f[:EthernetLen]) {
		return false
	}
	if t.v6 {
		// Everything but the payload length.
		if !bytes.Equal(h[t.l3:t.l3+4], f[t.l3:t.l3+4]) || !bytes.Equal(h[t.l3+6:t.l4], f[t.l3+6:t.l4]) {
			return false
		}
	} else {
		// Version to TOS, flags to protocol, addresses.
		if !bytes.Equal(h[t.l3:t.l3+2], f[t.l3:t.l3+2]) || !bytes.Equal(h[t.l3+6:t.l3+10], f[t.l3+6:t.l3+10]) ||
			!bytes.Equal(h[t.l3+12:t.l4], f[t.l3+12:t.l4]) {
			return false
		}
		if !r.idFollows(binary.BigEndian.Uint16(f[t.l3+4:]), f[t.l3+6]&0x40 != 0) {
			return false
		}
	}
	if !bytes.Equal(h[t.l4:t.l4+4], f[t.l4:t.l4+4]) { // ports
		return false
	}
	if t.proto == protoUDP {
		return binary.BigEndian.Uint16(f[t.l4+6:]) != 0
	}
	flags := binary.BigEndian.Uint16(f[t.l4+12:])
	return binary.BigEndian.Uint32(f[t.l4+4:]) == r.next &&
		bytes.Equal(h[t.l4+8:t.l4+12], f[t.l4+8:t.l4+12]) && // acknowledgement
		flags&^(tcpPSH|tcpFIN) == binary.BigEndian.Uint16(h[t.l4+12:])&^(tcpPSH|tcpFIN) &&
		bytes.Equal(h[t.l4+14:t.l4+16], f[t.l4+14:t.l4+16]) && // window
		bytes.Equal(h[t.l4+18:t.payload], f[t.l4+18:t.payload]) // urgent pointer, options
}

// append adds a frame that extends r. Of the header only the TCP flags are kept
// up to date; the rest is Finish's.
func (r *Run) append(f []byte, t *transport) {
	n := t.end - t.payload
	h := r.Parts[0]
	r.Parts = append(r.Parts, f[t.payload:t.end])
	r.Frames++
	r.bytes += n
	r.closed = n < r.segLen
	if !t.v6 {
		id := binary.BigEndian.Uint16(f[t.l3+4:])
		r.fixed = id == r.id
		r.id = id
	}
	if t.proto == protoTCP {
		r.next += uint32(n)
		flags := f[t.l4+13] & (tcpPSH | tcpFIN)
		h[t.l4+13] |= flags
		r.closed = r.closed || flags != 0
	}
	r.merged = true
}

// Finish turns the headers of a merged run into those of its super-frame. It
// is called once for every run, before the run is delivered.
func (r *Run) Finish() {
	if !r.merged {
		return
	}
	r.merged = false
	t, h := &r.t, r.Parts[0]
	l4Len := r.bytes - t.l4
	if t.v6 {
		binary.BigEndian.PutUint16(h[t.l3+4:], uint16(l4Len))
	} else {
		binary.BigEndian.PutUint16(h[t.l3+2:], uint16(r.bytes-t.l3))
		binary.BigEndian.PutUint16(h[t.l3+10:], 0)
		binary.BigEndian.PutUint16(h[t.l3+10:], ^Checksum(h[t.l3:t.l4], 0))
	}
	if t.proto == protoUDP {
		binary.BigEndian.PutUint16(h[t.l4+4:], uint16(l4Len))
	}
	binary.BigEndian.PutUint16(h[t.checksumField():], t.pseudoSum(h, l4Len))
	r.Offload = t.superOffload(r.segLen)
}

// verify reports whether the IPv4 header's and the transport's checksums are
// right.
func verify(f []byte, t *transport) bool {
	if !t.v6 && Checksum(f[t.l3:t.l4], 0) != 0xffff {
		return false
	}
	return Checksum(f[t.l4:t.end], t.pseudoSum(f, t.end-t.l4)) == 0xffff
}

// partial reports whether the transport's checksum is wrong and its field
// holds just the pseudo-header's sum.
func partial(f []byte, t *transport) bool {
	pseudo := t.pseudoSum(f, t.end-t.l4)
	if binary.BigEndian.Uint16(f[t.checksumField():]) != pseudo {
		return false
	}
	return Checksum(f[t.l4:t.end], pseudo) != 0xffff
}
