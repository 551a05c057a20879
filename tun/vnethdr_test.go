// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"bytes"
	"encoding/binary"
	"testing"

	"kohaku/encap"
)

// The layout of struct virtio_net_hdr, byte by byte.
func TestVnetHdrBytes(t *testing.T) {
	n16 := func(v uint16) []byte { return binary.NativeEndian.AppendUint16(nil, v) }
	cat := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	for name, c := range map[string]struct {
		o encap.Offload
		b []byte
	}{
		"nothing": {encap.Offload{}, make([]byte, 10)},
		"checksum": {encap.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 6},
			cat([]byte{1, 0, 0, 0, 0, 0}, n16(34), n16(6))},
		"TCP over IPv4": {encap.Offload{GSO: encap.GSOTCP4, HdrLen: 66, SegSize: 1398, NeedsCsum: true, CsumStart: 34, CsumOffset: 16},
			cat([]byte{1, 1}, n16(66), n16(1398), n16(34), n16(16))},
		"TCP over IPv6": {encap.Offload{GSO: encap.GSOTCP6, HdrLen: 86, SegSize: 1378, NeedsCsum: true, CsumStart: 54, CsumOffset: 16},
			cat([]byte{1, 4}, n16(86), n16(1378), n16(54), n16(16))},
		"UDP": {encap.Offload{GSO: encap.GSOUDP, HdrLen: 42, SegSize: 1200, NeedsCsum: true, CsumStart: 34, CsumOffset: 6},
			cat([]byte{1, 5}, n16(42), n16(1200), n16(34), n16(6))},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Repeat([]byte{0xee}, 10) // what was there before must not show
			putVnetHdr(b, c.o)
			if !bytes.Equal(b, c.b) {
				t.Errorf("wrote % x, want % x", b, c.b)
			}
			if o, ok := parseVnetHdr(c.b); !ok || o != c.o {
				t.Errorf("read %+v, %v; want %+v", o, ok, c.o)
			}
		})
	}
	ecn := make([]byte, 10)
	ecn[1] = 1 | 0x80 // TCPV4 with the ECN mark: the cutter looks at CWR itself
	if o, ok := parseVnetHdr(ecn); !ok || o.GSO != encap.GSOTCP4 {
		t.Errorf("ECN mark: %+v, %v", o, ok)
	}
	for _, kind := range []byte{2, 3, 6, 0x7f} {
		ecn[1] = kind
		if _, ok := parseVnetHdr(ecn); ok {
			t.Errorf("GSO type %d was taken", kind)
		}
	}
}

func FuzzVnetHdr(f *testing.F) {
	f.Add([]byte{1, 1, 66, 0, 0x76, 5, 34, 0, 16, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < vnetHdrLen {
			return
		}
		o, ok := parseVnetHdr(b)
		if !ok {
			return
		}
		out := make([]byte, vnetHdrLen)
		putVnetHdr(out, o)
		if o.GSO == encap.GSONone {
			o.HdrLen, o.SegSize = 0, 0 // mean nothing then, and are not written
		}
		if again, ok := parseVnetHdr(out); !ok || again != o {
			t.Fatalf("%+v became %+v", o, again)
		}
	})
}
