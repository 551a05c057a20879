// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"kohaku/encap"
	"kohaku/tun"
)

// addrKey is an underlay address in the one form in which a received source
// can be compared with a peer: IPv4 as v4-mapped, and the interface index of
// link-local addresses.
type addrKey struct {
	ip   [16]byte
	zone uint32
}

// sockaddr is a struct sockaddr_in or sockaddr_in6, ready for the kernel.
type sockaddr struct {
	b [unix.SizeofSockaddrInet6]byte
	n uint32
}

func newSockaddr(a netip.AddrPort) (s sockaddr, k addrKey, err error) {
	ip := a.Addr()
	k.ip = ip.As16()
	binary.BigEndian.PutUint16(s.b[2:], a.Port())
	if ip.Is4() {
		binary.NativeEndian.PutUint16(s.b[:], unix.AF_INET)
		v4 := ip.As4()
		copy(s.b[4:], v4[:])
		s.n = unix.SizeofSockaddrInet4
		return s, k, nil
	}
	if z := ip.Zone(); z != "" {
		if k.zone, err = zoneIndex(z); err != nil {
			return s, k, err
		}
	} else if ip.IsLinkLocalUnicast() {
		return s, k, fmt.Errorf("address %s is link-local: say which interface it belongs to (%s%%eth0)", ip, ip)
	}
	binary.NativeEndian.PutUint16(s.b[:], unix.AF_INET6)
	copy(s.b[8:], k.ip[:])
	binary.NativeEndian.PutUint32(s.b[24:], k.zone)
	s.n = unix.SizeofSockaddrInet6
	return s, k, nil
}

func zoneIndex(zone string) (uint32, error) {
	if n, err := strconv.ParseUint(zone, 10, 31); err == nil {
		return uint32(n), nil
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0, fmt.Errorf("interface %s of the address: %w", zone, err)
	}
	return uint32(i.Index), nil
}

// key reads a source address that the kernel wrote.
func (s *sockaddr) key() (k addrKey, ok bool) {
	switch binary.NativeEndian.Uint16(s.b[:]) {
	case unix.AF_INET:
		k.ip[10], k.ip[11] = 0xff, 0xff
		copy(k.ip[12:], s.b[4:8])
		return k, true
	case unix.AF_INET6:
		copy(k.ip[:], s.b[8:24])
		k.zone = binary.NativeEndian.Uint32(s.b[24:])
		return k, true
	}
	return k, false
}

// pktinfo is the control message that chooses the source address; empty when
// routing does.
type pktinfo struct {
	b [40]byte // CMSG_SPACE of the larger, IPv6's
	n int
}

func newPktinfo(local netip.Addr) (p pktinfo) {
	switch {
	case !local.IsValid():
	case local.Is4():
		// struct in_pktinfo: index, spec_dst, addr
		data := putCmsg(p.b[:], unix.IPPROTO_IP, unix.IP_PKTINFO, 12)
		v4 := local.As4()
		copy(data[4:], v4[:])
		p.n = unix.CmsgSpace(12)
	default:
		// struct in6_pktinfo: address, index
		data := putCmsg(p.b[:], unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, 20)
		v6 := local.As16()
		copy(data, v6[:])
		p.n = unix.CmsgSpace(20)
	}
	return p
}

// putCmsg writes the header of a control message with n bytes of data and
// returns where the data goes. The layout is that of 64-bit kernels: length,
// level, type, data, each message aligned to eight bytes.
func putCmsg(b []byte, level, typ int32, n int) []byte {
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(n)))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(typ))
	return b[16 : 16+n]
}

// eachCmsg calls fn for every whole control message in b.
func eachCmsg(b []byte, fn func(level, typ int32, data []byte)) {
	for len(b) >= 16 {
		l := binary.NativeEndian.Uint64(b)
		if l < 16 || l > uint64(len(b)) {
			return
		}
		fn(int32(binary.NativeEndian.Uint32(b[8:])), int32(binary.NativeEndian.Uint32(b[12:])), b[16:l])
		b = b[min((int(l)+7)&^7, len(b)):]
	}
}

const (
	solUDP        = 17
	udpSegment    = 103 // UDP_SEGMENT, include/uapi/linux/udp.h
	udpGRO        = 104 // UDP_GRO
	udpNoCheck6RX = 102 // UDP_NO_CHECK6_RX

	maxControl = 40 + 24 + 24 + 24 // pktinfo, TTL, TOS, UDP_SEGMENT
)

// An outMessage collects datagrams of one size, the last possibly shorter, for
// one peer and one source socket. They lie one behind the other in memory of its own.
type outMessage struct {
	mem   []byte // outBuffer and maxSkew bytes
	buf   []byte // the part of mem that is in use: outBuffer bytes, filled up to bytes
	skew  skew
	count int    // datagrams
	size  int    // of each but the last
	flow  uint32 // hash of the first
	tos   uint8
	bytes int
	ended bool // a shorter one was added, so nothing may follow

	dest    sockaddr
	v6      bool
	control [maxControl]byte
	nFixed  int // bytes of control that are the same for all of the peer's
	iov     [1]unix.Iovec
	raw     rawMessage
}

// outBuffer holds what one call takes, or a single datagram that is longer, which the
// kernel is to refuse.
const outBuffer = tun.MinArena + encap.HeaderLen

func (m *outMessage) init() {
	m.mem = make([]byte, outBuffer+maxSkew)
	m.reset()
}

// start turns to a peer. Nothing may be collected at that time.
func (m *outMessage) start(p *peer) {
	m.dest, m.v6 = p.dest, p.v6
	m.nFixed = copy(m.control[:], p.src.b[:p.src.n])
	if p.TTL != 0 {
		level, typ := int32(unix.IPPROTO_IP), int32(unix.IP_TTL)
		if p.v6 {
			level, typ = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
		}
		binary.NativeEndian.PutUint32(putCmsg(m.control[m.nFixed:], level, typ, 4), uint32(p.TTL))
		m.nFixed += unix.CmsgSpace(4)
	}
	m.reset()
}

func (m *outMessage) reset() {
	m.buf = m.mem[m.skew.next():][:outBuffer]
	m.count, m.size, m.bytes, m.ended = 0, 0, 0, false
}

// fits reports whether one more datagram of n bytes can leave in the same
// call.
func (m *outMessage) fits(flow uint32, tos uint8, n int) bool {
	return m.count == 0 ||
		!m.ended && n <= m.size && m.count < encap.MaxSegments && m.bytes+n <= encap.MaxSend &&
			flow%sourceSockets == m.flow%sourceSockets && tos == m.tos
}

// addDatagram takes a copy of one datagram, which must fit.
func (m *outMessage) addDatagram(flow uint32, tos uint8, d []byte) {
	m.added(flow, tos, 1, copy(m.space(), d), len(d))
}

// space is where the next datagram goes; added tells of it.
func (m *outMessage) space() []byte { return m.buf[m.bytes:] }

// added takes n datagrams that were written to space: of size bytes each but the last,
// which is possibly shorter, and bytes altogether. There must have been room for them,
// and what is there must be of the same size.
func (m *outMessage) added(flow uint32, tos uint8, n, bytes, size int) {
	if m.count == 0 {
		m.flow, m.tos, m.size = flow, tos, size
	}
	m.count += n
	m.bytes += bytes
	m.ended = m.bytes < m.count*m.size
}

// room returns how many more datagrams of size bytes one call takes.
func (m *outMessage) room(size int) int {
	switch {
	case m.count == 0:
		return max(min(encap.MaxSegments, encap.MaxSend/size), 1)
	case m.ended:
		return 0
	}
	return min(encap.MaxSegments-m.count, (encap.MaxSend-m.bytes)/size)
}

// fillControl writes the control messages behind the fixed ones.
func (m *outMessage) fillControl(segment bool) []byte {
	n := m.nFixed
	if m.tos != 0 {
		level, typ := int32(unix.IPPROTO_IP), int32(unix.IP_TOS)
		if m.v6 {
			level, typ = unix.IPPROTO_IPV6, unix.IPV6_TCLASS
		}
		binary.NativeEndian.PutUint32(putCmsg(m.control[n:], level, typ, 4), uint32(m.tos))
		n += unix.CmsgSpace(4)
	}
	if segment {
		binary.NativeEndian.PutUint16(putCmsg(m.control[n:], solUDP, udpSegment, 2), uint16(m.size))
		n += unix.CmsgSpace(2)
	}
	return m.control[:n]
}

// segmented returns everything collected as one message that the kernel cuts.
// It is valid until the next call on m.
func (m *outMessage) segmented() *rawMessage {
	return m.message(m.buf[:m.bytes], m.fillControl(true))
}

// eachDatagram calls fn with each datagram as a message of its own.
func (m *outMessage) eachDatagram(fn func(*rawMessage)) {
	control := m.fillControl(false)
	for rest := m.buf[:m.bytes]; len(rest) > 0; {
		n := min(m.size, len(rest))
		fn(m.message(rest[:n], control))
		rest = rest[n:]
	}
}

func (m *outMessage) message(b, control []byte) *rawMessage {
	m.iov[0] = iovec(b)
	m.raw.set(&m.dest, m.iov[:], control)
	return &m.raw
}

// An inMessage is one received message. It is valid until the next receive.
type inMessage struct {
	data      []byte
	from      addrKey
	segment   int // length of each datagram in data; 0: data is one
	ecn       encap.ECN
	truncated bool
}

const rxControl = 128

// inMessages is the memory of one receiver.
type inMessages struct {
	hdrs    []mmsghdr
	names   []sockaddr
	buffers []byte
	control []byte
	used    int // headers that have to be made ready before the next call
}

// at decodes message i.
func (in *inMessages) at(i int) (m inMessage) {
	h := &in.hdrs[i]
	n := min(int(h.n), rxBuffer)
	m.data = in.buffers[i*rxStride:][:n]
	from, ok := in.names[i].key()
	m.from = from
	m.truncated = h.hdr.Flags&unix.MSG_TRUNC != 0 || !ok
	eachCmsg(in.control[i*rxControl:][:min(int(h.hdr.Controllen), rxControl)], func(level, typ int32, data []byte) {
		switch {
		case level == solUDP && typ == udpGRO && len(data) >= 4:
			m.segment = int(binary.NativeEndian.Uint32(data))
		case level == unix.IPPROTO_IP && typ == unix.IP_TOS && len(data) >= 1:
			m.ecn = encap.ECN(data[0] & 3)
		case level == unix.IPPROTO_IPV6 && typ == unix.IPV6_TCLASS && len(data) >= 4:
			m.ecn = encap.ECN(binary.NativeEndian.Uint32(data) & 3)
		}
	})
	return m
}
