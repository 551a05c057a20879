// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"net/netip"
	"testing"
)

// vxlanPayload is a VXLAN header and an inner frame, byte for byte.
var vxlanPayload = []byte{
	0x08, 0, 0, 0, // flags: I
	0x01, 0x02, 0x03, 0, // VNI 66051
	// Ethernet
	0x02, 0, 0, 0, 0, 0x0b,
	0x02, 0, 0, 0, 0, 0x0a,
	0x08, 0x00,
	// IPv4, 28 bytes in all, TTL 63, ICMP, 10.1.0.2 > 10.2.0.2
	0x45, 0, 0, 28, 0, 1, 0x40, 0, 63, 1, 0x27, 0xda,
	10, 1, 0, 2,
	10, 2, 0, 2,
	// ICMP echo request, id 1, sequence 1
	8, 0, 0xf7, 0xfd, 0, 1, 0, 1,
}

// outerFrame is vxlanPayload from 192.0.2.2:54321 to 192.0.2.1:4789.
func outerFrame() []byte {
	n := len(vxlanPayload)
	return append([]byte{
		0x02, 0, 0, 0, 0, 0x01,
		0x02, 0, 0, 0, 0, 0x02,
		0x08, 0x00,
		0x45, 0, 0, byte(28 + n), 0, 1, 0, 0, 64, 17, 0, 0,
		192, 0, 2, 2,
		192, 0, 2, 1,
		0xd4, 0x31, 0x12, 0xb5, 0, byte(8 + n), 0xab, 0xcd,
	}, vxlanPayload...)
}

func TestDecodeOuter(t *testing.T) {
	got, ok := decodeOuter(outerFrame(), 4789)
	want := Outer{
		From:      Endpoint{"02:00:00:00:00:02", netip.MustParseAddr("192.0.2.2"), 54321},
		To:        Endpoint{"02:00:00:00:00:01", netip.MustParseAddr("192.0.2.1"), 4789},
		TTL:       64,
		Length:    14 + 28 + len(vxlanPayload),
		UDPSum:    0xabcd,
		VNI:       66051,
		InnerFrom: Endpoint{"02:00:00:00:00:0a", netip.MustParseAddr("10.1.0.2"), 0},
		InnerTo:   Endpoint{"02:00:00:00:00:0b", netip.MustParseAddr("10.2.0.2"), 0},
		InnerTTL:  63,
		Inner:     "ICMPv4 EchoRequest",
	}
	if !ok || got != want {
		t.Errorf("got  %+v, %v\nwant %+v", got, ok, want)
	}
}

func TestDecodeOuterRefusesOtherFrames(t *testing.T) {
	change := func(at int, b byte) []byte {
		f := bytes.Clone(outerFrame())
		f[at] = b
		return f
	}
	for name, f := range map[string][]byte{
		"empty":              nil,
		"not IPv4":           change(13, 0x06),
		"not UDP":            change(23, 6),
		"another port":       change(37, 0xb6),
		"no VNI flag":        change(42, 0),
		"inner frame is ARP": change(63, 0x06),
		"cut off":            outerFrame()[:60],
	} {
		if o, ok := decodeOuter(f, 4789); ok {
			t.Errorf("%s: accepted as %+v", name, o)
		}
	}
}
