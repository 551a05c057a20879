// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"kohaku/encap"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Whole frames, byte by byte as RFC 826 and RFC 4861 draw them. The checksums
// were worked out by hand.
func TestFrames(t *testing.T) {
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"ARP request": {appendARP(nil, arpRequest, broadcastMAC, ourMAC, our4, [6]byte{}, peer4), `
			ffffffffffff 020000000001 0806
			0001 0800 06 04 0001 020000000001 0a0100fe 000000000000 0a010001`},
		"ARP reply": {appendARP(nil, arpReply, peerMAC, ourMAC, our4, peerMAC, peer4), `
			020000000002 020000000001 0806
			0001 0800 06 04 0002 020000000001 0a0100fe 020000000002 0a010001`},
		"solicitation": {appendSolicitation(nil, groupMAC(solicitedNode(peer6)), ourMAC, our6, solicitedNode(peer6), peer6), `
			3333ff000001 020000000001 86dd
			60000000 0020 3a ff fd0000000000000000000000000000fe ff0200000000000000000001ff000001
			87 00 7c9c 00000000 fd000000000000000000000000000001 01 01 020000000001`},
		"advertisement": {appendAdvertisement(nil, peerMAC, ourMAC, peer6, our6, ndSolicited|ndOverride), `
			020000000002 020000000001 86dd
			60000000 0020 3a ff fd0000000000000000000000000000fe fd000000000000000000000000000001
			88 00 1aa3 60000000 fd0000000000000000000000000000fe 02 01 020000000001`},
	} {
		t.Run(name, func(t *testing.T) {
			if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
				t.Errorf("\n got %x\nwant %x", c.got, want)
			}
		})
	}
}

func TestGroupMAC(t *testing.T) {
	for a, want := range map[string]string{
		"224.0.0.1":       "01005e000001",
		"239.129.2.3":     "01005e010203", // the highest of the 24 bits is lost
		"ff02::1":         "333300000001",
		"ff02::1:ff12:34": "3333ff120034",
	} {
		mac := groupMAC(netip.MustParseAddr(a))
		if hex.EncodeToString(mac[:]) != want || !ipGroup(mac) {
			t.Errorf("%s: %x, want %s", a, mac, want)
		}
	}
	for _, mac := range []string{"0180c2000000", "01005e800000", "020000000001"} {
		if ipGroup([6]byte(unhex(t, mac))) {
			t.Errorf("%s counts as a group of IP", mac)
		}
	}
}

func TestDeriveMAC(t *testing.T) {
	a := deriveMAC("vxkr1", "machine")
	if a != deriveMAC("vxkr1", "machine") || a == deriveMAC("vxkr2", "machine") || a == deriveMAC("vxkr1", "other") {
		t.Error("not a function of both name and seed")
	}
	if a[0]&3 != 2 {
		t.Errorf("%x is not a locally administered station's address", a)
	}
}

func TestRoutes(t *testing.T) {
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	r := newRoutes(&Options{Routes: []Route{
		{Prefix: p("0.0.0.0/0"), Via: a("10.1.0.1")},
		{Prefix: p("10.1.2.3/16")},
		{Prefix: p("10.1.9.0/24"), Via: a("10.1.0.9")},
		{Prefix: p("192.0.2.0/31")},
	}})
	for dst, want := range map[string]string{
		"10.1.7.7": "10.1.7.7", "10.2.0.1": "10.1.0.1", "10.1.9.9": "10.1.0.9", "fd00::1": "fd00::1", "192.0.2.1": "192.0.2.1",
	} {
		if hop, b := r.next(a(dst)); hop != a(want) || b {
			t.Errorf("%s goes to %s (broadcast %v), want %s", dst, hop, b, want)
		}
	}
	if _, b := r.next(a("10.1.255.255")); !b {
		t.Error("the subnet's broadcast address is not known as such")
	}
	if hop, _ := (&routes{ask: func(netip.Addr) netip.Addr { return a("fe80::1%eth0") }}).next(a("10.2.0.1")); hop != a("fe80::1") {
		t.Errorf("NextHop's answer became %s", hop)
	}
}

// Errors quote a packet that can be recognised, and never answer an error.
func TestUnreachable(t *testing.T) {
	for _, c := range []struct{ src, dst netip.Addr }{{our4, peer4}, {our6, peer6}} {
		pkt := udp(c.src, c.dst, strings.Repeat("x", 1400))
		e := appendUnreachable(nil, pkt)
		p, ok := parseIP(e)
		if !ok || p.src != c.dst || p.dst != c.src || p.length != len(e) {
			t.Fatalf("%x", e)
		}
		hdr, limit := ipv4Len, maxICMP4
		if c.src.Is6() {
			hdr, limit = ipv6Len, maxICMP6
			if icmp6Sum(p.src, p.dst, e[hdr:]) != 0xffff || e[hdr] != 1 || e[hdr+1] != 3 {
				t.Errorf("%x", e[:hdr+8])
			}
		} else if e[hdr] != 3 || e[hdr+1] != 1 {
			t.Errorf("%x", e[:hdr+8])
		}
		if len(e) != limit || !bytes.Equal(e[hdr+8:], pkt[:limit-hdr-8]) {
			t.Errorf("%d bytes, want %d with the packet's beginning", len(e), limit)
		}
		if again := appendUnreachable(nil, e); again != nil {
			t.Errorf("an error was answered with %x", again)
		}
	}
	for name, pkt := range map[string][]byte{
		"later fragment":     func() []byte { b := udp(our4, peer4, "x"); b[7] = 1; return b }(),
		"to a group":         udp(our4, netip.MustParseAddr("224.0.0.1"), "x"),
		"from nobody":        udp(netip.IPv4Unspecified(), peer4, "x"),
		"redirect":           append(ipHeader(our6, peer6, 58, 8, 255), ndRedirect, 0, 0, 0, 0, 0, 0, 0),
		"truncated option":   ipHeader(our6, peer6, 0, 0, 64),
		"later fragment 6":   append(ipHeader(our6, peer6, 44, 8, 64), 17, 0, 0, 8, 0, 0, 0, 1),
		"cut in the header":  udp(our4, peer4, "x")[:19],
		"error after option": append(ipHeader(our6, peer6, 60, 16, 64), 58, 0, 1, 4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0),
	} {
		if e := appendUnreachable(nil, pkt); e != nil {
			t.Errorf("%s: answered with %x", name, e)
		}
	}
	if e := appendUnreachable(nil, append(ipHeader(our4, peer4, 1, 8, 64), 8, 0, 0, 0, 0, 0, 0, 0)); e == nil {
		t.Error("a ping was not answered")
	}
}

// A UDP checksum of 0 that was computed becomes 0xffff; one that was left out, or
// that is not 0, stays.
func TestMendUDPChecksum(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for name, c := range map[string]struct {
			payload, field, want uint16
		}{
			"computed":    {0, 0, 0xffff}, // the payload is set so that the sum is 0
			"left out":    {1, 0, 0},
			"not 0":       {0, 0x1234, 0x1234},
			"already all": {0, 0xffff, 0xffff},
		} {
			var b []byte
			udp := ipv4Len
			if v6 {
				udp = ipv6Len
				b = make([]byte, ipv6Len+10)
				putIPv6(b, netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2"), 10, 64)
				b[6] = protoUDP
			} else {
				b = append(make([]byte, 0, 30), 0x45, 0, 0, 30, 0, 0, 0, 0, 64, protoUDP, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
				b = b[:30]
			}
			b[udp+1], b[udp+3], b[udp+5] = 7, 9, 10
			p, ok := parseIP(b)
			if !ok {
				t.Fatal("not IP")
			}
			// What makes the sum all ones, plus what the case asks for.
			s, d := p.src.AsSlice(), p.dst.AsSlice()
			sum := encap.Checksum(append(append(append([]byte{}, s...), d...), 0, protoUDP, 0, 10), 0)
			sum = encap.Checksum(b[udp:], sum)
			binary.BigEndian.PutUint16(b[udp+8:], ^sum+c.payload)
			binary.BigEndian.PutUint16(b[udp+6:], c.field)
			mendUDPChecksum(b, &p)
			if got := binary.BigEndian.Uint16(b[udp+6:]); got != c.want {
				t.Errorf("IPv6 %v, %s: %#x, want %#x", v6, name, got, c.want)
			}
		}
	}
	short := ipPacket{etherType: etherIPv6}
	mendUDPChecksum(append(make([]byte, 6), append([]byte{protoUDP}, make([]byte, 33)...)...), &short)
}
