// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"encoding/binary"
	"fmt"
)

// MaxSegments is the most datagrams that one UDP_SEGMENT call takes on every kernel
// that has it (UDP_MAX_SEGMENTS in include/linux/udp.h was 64 before it became 128).
const MaxSegments = 64

// MaxSend is the most bytes of datagrams that one UDP_SEGMENT call takes over
// IPv4, where the kernel builds one IP packet of them first; IPv6 takes a little
// more.
const MaxSend = 65535 - 20 - 8

// OneSend returns how large TCP super-frames of a device with the given MTU may
// be, as the device's gso_max_size counts, for their datagrams to leave in one
// call. The kernel keeps room for headers within that size (MAX_TCP_HEADER in
// include/net/tcp.h), up to 320 bytes of it.
func OneSend(mtu InnerMTU) int {
	datagram := HeaderLen + EthernetLen + int(mtu)
	n := max(min(MaxSegments, MaxSend/datagram), 1)
	const ipTCP = 20 + 20 + 12 // with timestamps
	return min(n*(int(mtu)-ipTCP)+320+ipTCP+EthernetLen, 65536)
}

// A Cutter cuts one super-frame at a time into VXLAN datagrams of equal size,
// the last possibly shorter, one behind the other in memory. Payload is copied by
// the pass over it that its checksums need; referring to it would spare that, and
// cost more in the kernel, which then has two pieces to gather for each datagram.
// The zero value is ready. Not for concurrent use.
//
// What differs from segment to segment follows the kernel
// (net/ipv4/tcp_offload.c, net/ipv4/udp_offload.c): IPv4 identification counts
// up, the TCP sequence advances, FIN and PSH stay on the last segment only and
// CWR on the first, UDP length and every checksum are those of the segment.
type Cutter struct {
	pkt    []byte // VXLAN header, then the super-frame
	t      transport
	hdrLen int // of VXLAN and inner headers
	seg    int // payload bytes per segment
	off    int // in pkt: the next payload byte
	index  int

	ipBase uint16 // sum of the IPv4 header without length, id and checksum
	l4Base uint16 // sum of addresses, protocol and the constant part of the transport header
	id     uint16
	seq    uint32
	flags  uint16 // TCP data offset and flags
}

// Start takes on a super-frame. pkt holds HeaderLen bytes of room for the
// VXLAN header and then the frame; it is borrowed until Next has returned 0, and the
// room is written to. o must describe a super-frame; when the frame's bytes do not fit
// the description the error wraps ErrOffload and nothing was changed.
func (c *Cutter) Start(vni VNI, pkt []byte, o Offload) error {
	f := pkt[HeaderLen:]
	t, ok := parseTransport(f, true)
	switch {
	case !ok:
		return fmt.Errorf("%w: super-frame without TCP or UDP directly on IP", ErrOffload)
	case o.SegSize == 0:
		return fmt.Errorf("%w: segment size 0", ErrOffload)
	case t.proto == protoTCP && (o.GSO == GSOUDP || (o.GSO == GSOTCP6) != t.v6),
		t.proto == protoUDP && o.GSO != GSOUDP:
		return fmt.Errorf("%w: GSO kind %d on IP protocol %d", ErrOffload, o.GSO, t.proto)
	case t.payload == t.end:
		return fmt.Errorf("%w: super-frame without payload", ErrOffload)
	}
	c.pkt, c.t = pkt, t
	c.hdrLen = HeaderLen + t.payload
	c.seg = int(o.SegSize)
	c.off = c.hdrLen
	c.index = 0
	PutHeader(pkt, vni)

	c.l4Base = t.addressSum(f)
	if t.proto == protoTCP {
		c.seq = binary.BigEndian.Uint32(f[t.l4+4:])
		c.flags = binary.BigEndian.Uint16(f[t.l4+12:])
		c.l4Base = Checksum(f[t.l4:t.l4+4], c.l4Base)       // ports
		c.l4Base = Checksum(f[t.l4+8:t.l4+12], c.l4Base)    // acknowledgement
		c.l4Base = Checksum(f[t.l4+14:t.l4+16], c.l4Base)   // window
		c.l4Base = Checksum(f[t.l4+18:t.payload], c.l4Base) // urgent pointer, options
	} else {
		c.l4Base = Checksum(f[t.l4:t.l4+4], c.l4Base)
	}
	if !t.v6 {
		c.id = binary.BigEndian.Uint16(f[t.l3+4:])
		h := f[t.l3:t.l4]
		sum := Checksum(h[0:2], 0)
		sum = Checksum(h[6:10], sum)
		c.ipBase = Checksum(h[12:], sum)
	}
	return nil
}

// Segments returns how many segments are still to come.
func (c *Cutter) Segments() int {
	return (len(c.pkt) - c.off + c.seg - 1) / c.seg
}

// DatagramLen returns the length of every datagram but the last.
func (c *Cutter) DatagramLen() int { return c.hdrLen + min(c.seg, len(c.pkt)-c.hdrLen) }

// Next cuts up to limit more segments, as many as dst has room for, and writes them
// to dst: n datagrams of DatagramLen bytes, the last of the super-frame possibly
// shorter, of size bytes altogether. It returns 0 when nothing is left, or dst has
// no room for one.
func (c *Cutter) Next(dst []byte, limit int) (n, size int) {
	for ; n < limit && c.off < len(c.pkt); n++ {
		payload := c.pkt[c.off:min(c.off+c.seg, len(c.pkt))]
		end := size + c.hdrLen + len(payload)
		if end > len(dst) {
			break
		}
		c.off += len(payload)
		d := dst[size:end:end]
		copy(d, c.pkt[:c.hdrLen])
		c.finish(d[HeaderLen:c.hdrLen], d[c.hdrLen:], payload)
		c.index++
		size = end
	}
	return n, size
}

// TCP flags within the 16-bit word that starts with the data offset.
const (
	tcpFIN = 1 << 0
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
	tcpPSH = 1 << 3
	tcpACK = 1 << 4
	tcpURG = 1 << 5
	tcpCWR = 1 << 7
)

// finish writes into the inner header h what belongs to segment c.index, and copies
// its payload to dst; c.off already stands behind it.
func (c *Cutter) finish(h, dst, payload []byte) {
	t := &c.t
	if t.v6 {
		binary.BigEndian.PutUint16(h[t.l3+4:], uint16(len(h)-t.l4+len(payload)))
	} else {
		total := uint16(len(h) - t.l3 + len(payload))
		id := c.id + uint16(c.index)
		binary.BigEndian.PutUint16(h[t.l3+2:], total)
		binary.BigEndian.PutUint16(h[t.l3+4:], id)
		binary.BigEndian.PutUint16(h[t.l3+10:], ^add16(add16(c.ipBase, total), id))
	}

	n := uint32(len(h) - t.l4 + len(payload))
	sum := add32(c.l4Base, n) // the pseudo-header's length
	if t.proto == protoTCP {
		seq := c.seq + uint32(c.index)*uint32(c.seg)
		flags := c.flags
		if c.index > 0 {
			flags &^= tcpCWR
		}
		if c.off < len(c.pkt) {
			flags &^= tcpFIN | tcpPSH
		}
		binary.BigEndian.PutUint32(h[t.l4+4:], seq)
		binary.BigEndian.PutUint16(h[t.l4+12:], flags)
		sum = add16(add32(sum, seq), flags)
		sum = ^CopyChecksum(dst, payload, sum)
	} else {
		binary.BigEndian.PutUint16(h[t.l4+4:], uint16(n))
		sum = ^CopyChecksum(dst, payload, add16(sum, uint16(n)))
		if sum == 0 {
			sum = 0xffff // RFC 768: zero would mean "no checksum"
		}
	}
	binary.BigEndian.PutUint16(h[t.checksumField():], sum)
}
