// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

func TestPacketFit(t *testing.T) {
	p4 := packet{ttl: 64, df: true, flags: tcpACK, payload: make([]byte, 1400-40)}
	p6 := packet{v6: true, ttl: 64, flags: tcpACK, payload: make([]byte, 1400-60)}
	free := p4
	free.df = false
	tagged := p4
	tagged.vlans = []uint16{4}
	super, o := packet{ttl: 64, df: true, flags: tcpACK, payload: make([]byte, 9000)}.super(1360)
	for name, c := range map[string]struct {
		frame []byte
		seg   int
		mtu   InnerMTU
		want  Fit
	}{
		"just":              {p4.bytes(), 0, 1400, Fits},
		"one over":          {p4.bytes(), 0, 1399, TooLarge},
		"tag not counted":   {tagged.bytes(), 0, 1400, Fits},
		"no DF":             {free.bytes(), 0, 1399, Fragmentable},
		"IPv6":              {p6.bytes(), 0, 1399, TooLarge},
		"segments fit":      {super, int(o.SegSize), 1400, Fits},
		"segments one over": {super, int(o.SegSize), 1399, TooLarge},
		"ARP":               {append(make([]byte, 12), append([]byte{8, 6}, make([]byte, 3000)...)...), 0, 1400, Fits},
	} {
		if got := PacketFit(c.frame, c.seg, c.mtu); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// The answers are compared with bytes put together by the reference: header by
// header after RFC 792 and RFC 4443.
func TestTooBig(t *testing.T) {
	for _, vlans := range [][]uint16{nil, {7}} {
		p := packet{ttl: 64, df: true, tos: 0x28, vlans: vlans, flags: tcpACK, payload: make([]byte, 2000)}
		f := p.bytes()
		l3 := 14 + 4*len(vlans)
		dst := bytes.Repeat([]byte{0xee}, MaxTooBig)
		n := TooBig(dst, f, 1350)
		icmp := append([]byte{3, 4, 0, 0, 0, 0, 1350 >> 8, 1350 & 0xff}, f[l3:l3+548]...)
		binary.BigEndian.PutUint16(icmp[2:], ^slowSum(icmp))
		ip := []byte{0x45, 0xe8, 576 >> 8, 576 & 0xff, 0, 0, 0x40, 0, 64, 1, 0, 0, 10, 2, 0, 2, 10, 1, 0, 2}
		binary.BigEndian.PutUint16(ip[10:], ^slowSum(ip))
		want := append(append(append(bytes.Clone(f[6:12]), f[:6]...), f[12:l3]...), append(ip, icmp...)...)
		equalFrames(t, [][]byte{dst[:n]}, [][]byte{want})

		p.v6 = true
		f = p.bytes()
		n = TooBig(dst, f, 1350)
		icmp = append([]byte{2, 0, 0, 0, 0, 0, 1350 >> 8, 1350 & 0xff}, f[l3:l3+1232]...)
		src, to := f[l3+8:l3+24], f[l3+24:l3+40]
		binary.BigEndian.PutUint16(icmp[2:], ^slowSum(slowPseudo(to, src, 58, len(icmp)), icmp))
		ip = append([]byte{0x60, 0, 0, 0, byte(len(icmp) >> 8), byte(len(icmp)), 58, 64}, append(bytes.Clone(to), src...)...)
		want = append(append(append(bytes.Clone(f[6:12]), f[:6]...), f[12:l3]...), append(ip, icmp...)...)
		equalFrames(t, [][]byte{dst[:n]}, [][]byte{want})
	}
}

func TestTooBigKeepsSilent(t *testing.T) {
	change := func(p packet, fn func(ip []byte)) []byte { f := p.bytes(); fn(f[14:]); return f }
	p4 := packet{ttl: 64, df: true, udp: true, payload: make([]byte, 2000)}
	p6 := set6(p4)
	for name, c := range map[string]struct {
		f   []byte
		mtu InnerMTU
	}{
		"MTU below IPv4's least": {p4.bytes(), 575},
		"MTU below IPv6's least": {p6.bytes(), 1279},
		"to multicast":           {change(p4, func(ip []byte) { ip[16] = 224 }), 1400},
		"to broadcast":           {change(p4, func(ip []byte) { copy(ip[16:], []byte{255, 255, 255, 255}) }), 1400},
		"from nowhere":           {change(p4, func(ip []byte) { clear(ip[12:16]) }), 1400},
		"from loopback":          {change(p4, func(ip []byte) { ip[12] = 127 }), 1400},
		"from multicast, IPv6":   {change(p6, func(ip []byte) { ip[8] = 0xff }), 1400},
		"an ICMP error":          {change(p4, func(ip []byte) { ip[9], ip[20] = 1, 3 }), 1400},
		"an ICMPv6 error":        {change(p6, func(ip []byte) { ip[6], ip[40] = 58, 1 }), 1400},
		"ARP":                    {append(make([]byte, 12), append([]byte{8, 6}, make([]byte, 3000)...)...), 1400},
	} {
		if n := TooBig(make([]byte, MaxTooBig), c.f, c.mtu); n != 0 {
			t.Errorf("%s: answered with %d bytes", name, n)
		}
	}
	if TooBig(make([]byte, MaxTooBig), change(p4, func(ip []byte) { ip[9], ip[20] = 1, 8 }), 1400) == 0 {
		t.Error("an echo request that is too large gets no answer")
	}
}

func TestUDPDestination(t *testing.T) {
	for _, p := range []packet{{udp: true, payload: []byte("x")}, {udp: true, v6: true, vlans: []uint16{1, 2}, payload: []byte("x")}} {
		want := netip.MustParseAddrPort("10.2.0.2:9000")
		if p.v6 {
			want = netip.MustParseAddrPort("[fd00::2]:9000")
		}
		if got, ok := UDPDestination(p.bytes()); !ok || got != want {
			t.Errorf("%v, %v; want %v", got, ok, want)
		}
		p.udp = false
		if got, ok := UDPDestination(p.bytes()); ok {
			t.Errorf("TCP has the UDP destination %v", got)
		}
	}
}

func FuzzTooBig(f *testing.F) {
	f.Add(packet{ttl: 64, df: true, payload: make([]byte, 2000)}.bytes(), uint16(1350))
	f.Add(packet{v6: true, ttl: 64, udp: true, vlans: []uint16{1, 2}, payload: make([]byte, 1300)}.bytes(), uint16(1300))
	f.Fuzz(func(t *testing.T, b []byte, mtu uint16) {
		b = b[:len(b):len(b)]
		PacketFit(b, int(mtu), InnerMTU(mtu))
		UDPDestination(b)
		dst := make([]byte, MaxTooBig)
		n := TooBig(dst, b, InnerMTU(mtu))
		if n == 0 {
			return
		}
		// What was written must parse as what it claims to be.
		l3, et, ok := networkHeader(dst[:n])
		if !ok || et == etherIPv4 && int(binary.BigEndian.Uint16(dst[l3+2:])) != n-l3 || et == etherIPv6 && int(binary.BigEndian.Uint16(dst[l3+4:])) != n-l3-40 {
			t.Fatalf("%x", dst[:n])
		}
		if et == etherIPv4 && (Checksum(dst[l3:l3+20], 0) != 0xffff || Checksum(dst[l3+20:n], 0) != 0xffff) {
			t.Fatalf("checksums of %x", dst[:n])
		}
	})
}
