// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// The wire bytes are written by hand after RFC 7348 section 5.
func TestHeaderBytes(t *testing.T) {
	b := bytes.Repeat([]byte{0xff}, 8)
	PutHeader(b, 0x123456)
	if want := []byte{0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0}; !bytes.Equal(b, want) {
		t.Errorf("got % x, want % x", b, want)
	}
	frame := make([]byte, EthernetLen)
	cases := []struct {
		header string
		frame  []byte
		vni    VNI
		fault  HeaderFault
	}{
		{"\x08\x00\x00\x00\x00\x00\x65\x00", frame, 101, HeaderOK},
		{"\x08\x00\x00\x00\xff\xff\xff\x00", frame, MaxVNI, HeaderOK},
		{"\x08\x00\x00\x00\x00\x00\x00\x00", frame, 0, HeaderOK},
		{"\x08\x00\x00\x00\x00\x00\x65", nil, 0, HeaderShort},
		{"", nil, 0, HeaderShort},
		{"\x00\x00\x00\x00\x00\x00\x65\x00", frame, 0, HeaderNoVNI},
		{"\x88\x00\x00\x00\x00\x00\x65\x00", frame, 0, HeaderReserved}, // GBP's G bit
		{"\x0c\x00\x00\x00\x00\x00\x65\x00", frame, 0, HeaderReserved}, // GPE's P bit
		{"\x08\x20\x00\x00\x00\x00\x65\x00", frame, 0, HeaderReserved}, // RCO
		{"\x08\x00\x00\x01\x00\x00\x65\x00", frame, 0, HeaderReserved},
		{"\x08\x00\x00\x00\x00\x00\x65\x01", frame, 0, HeaderReserved},
		{"\x08\x00\x00\x00\x00\x00\x65\x00", frame[:13], 101, HeaderNoFrame},
	}
	for _, c := range cases {
		v, fault := ParseHeader(append([]byte(c.header), c.frame...))
		if v != c.vni || fault != c.fault {
			t.Errorf("% x + %d bytes: VNI %d fault %d, want %d and %d", c.header, len(c.frame), v, fault, c.vni, c.fault)
		}
	}
}

func TestVNI(t *testing.T) {
	for s, want := range map[string]VNI{"0": 0, "101": 101, "16777215": MaxVNI} {
		if v, err := ParseVNI(s); err != nil || v != want || v.String() != s {
			t.Errorf("ParseVNI(%q) = %v, %v", s, v, err)
		}
	}
	for _, s := range []string{"", "-1", "16777216", "4294967297", "0x10", "1 "} {
		if v, err := ParseVNI(s); err == nil {
			t.Errorf("ParseVNI(%q) = %v, want an error", s, v)
		}
	}
}

func TestInnerMTU(t *testing.T) {
	for _, c := range []struct {
		u    UnderlayMTU
		v6   bool
		want InnerMTU
	}{{1500, false, 1450}, {1500, true, 1430}, {9000, false, 8950}, {626, false, 576}, {646, true, 576}, {65535, true, 65465}, {70000, false, MaxInnerMTU}} {
		if got, err := c.u.Inner(c.v6); err != nil || got != c.want {
			t.Errorf("%d (v6 %v): %d, %v; want %d", c.u, c.v6, got, err, c.want)
		}
	}
	for _, c := range []struct {
		u  UnderlayMTU
		v6 bool
	}{{625, false}, {645, true}, {0, false}, {-5, true}} {
		if got, err := c.u.Inner(c.v6); err == nil {
			t.Errorf("%d (v6 %v): %d, want an error", c.u, c.v6, got)
		}
	}
}

func TestChecksum(t *testing.T) {
	// RFC 1071 section 3's example.
	if got := Checksum([]byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}, 0); got != 0xddf2 {
		t.Errorf("RFC 1071's example: %#x, want 0xddf2", got)
	}
	r := rand.New(rand.NewPCG(7, 8))
	buf := make([]byte, 2100)
	for n := range 2000 {
		off := n % 9 // alignments
		for i := range buf {
			if n%3 == 0 {
				buf[i] = 0xff // as many carries as possible
			} else {
				buf[i] = byte(r.Uint32())
			}
		}
		b := buf[off : off+n]
		if got, want := Checksum(b, 0), slowSum(b); got%0xffff != want%0xffff {
			t.Fatalf("%d bytes: %#x, want %#x", n, got, want)
		}
		init := uint16(r.Uint32())
		if got, want := Checksum(b, init), slowSum([]byte{byte(init >> 8), byte(init)}, b); got%0xffff != want%0xffff {
			t.Fatalf("%d bytes from %#x: %#x, want %#x", n, init, got, want)
		}
		if k := n / 2 &^ 1; Checksum(b[k:], Checksum(b[:k], 0)) != Checksum(b, 0) {
			t.Fatalf("%d bytes: in two parts something else than in one", n)
		}
	}
}

// TestCopyChecksum copies at every alignment, and nothing beside what it is given.
func TestCopyChecksum(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	src := make([]byte, 3000)
	for i := range src {
		src[i] = byte(r.Uint32())
	}
	dst := make([]byte, len(src)+64)
	for n := range 1500 {
		b := src[n%37:][:n]
		at, init := n%41, uint16(r.Uint32())
		clear(dst)
		got := CopyChecksum(dst[at:], b, init)
		if want := Checksum(b, init); got != want {
			t.Fatalf("%d bytes: sum %#x, want %#x", n, got, want)
		}
		if !bytes.Equal(dst[at:at+n], b) {
			t.Fatalf("%d bytes: the copy differs", n)
		}
		for i, c := range dst {
			if c != 0 && (i < at || i >= at+n) {
				t.Fatalf("%d bytes to offset %d: byte %d was written", n, at, i)
			}
		}
	}
}

func FuzzChecksum(f *testing.F) {
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\x01"), uint16(0xffff))
	f.Fuzz(func(t *testing.T, b []byte, init uint16) {
		got, want := Checksum(b, init), slowSum([]byte{byte(init >> 8), byte(init)}, b)
		if got%0xffff != want%0xffff || (got == 0) != (want == 0) {
			t.Fatalf("%#x, want %#x", got, want)
		}
		dst := make([]byte, len(b))
		if c := CopyChecksum(dst, b, init); c != got || !bytes.Equal(dst, b) {
			t.Fatalf("copied: %#x, want %#x and the same bytes", c, got)
		}
	})
}

// RFC 6040 section 4.2, all sixteen combinations, both families, plain and
// tagged. ECT(0) under ECT(1) is the kernel's choice, see Decapsulate.
func TestECNDecapsulate(t *testing.T) {
	want := map[[2]ECN]ECN{} // inner, outer to result; absent: dropped
	for _, in := range []ECN{NotECT, ECT0, ECT1, CE} {
		for _, out := range []ECN{NotECT, ECT0, ECT1, CE} {
			want[[2]ECN{in, out}] = in
		}
	}
	delete(want, [2]ECN{NotECT, CE})
	want[[2]ECN{ECT0, CE}] = CE
	want[[2]ECN{ECT1, CE}] = CE
	want[[2]ECN{ECT0, ECT1}] = ECT1
	for _, v6 := range []bool{false, true} {
		for _, vlans := range [][]uint16{nil, {4}, {4, 5}} {
			for _, in := range []ECN{NotECT, ECT0, ECT1, CE} {
				for _, out := range []ECN{NotECT, ECT0, ECT1, CE} {
					p := packet{v6: v6, vlans: vlans, ttl: 64, tos: 0xa8 | byte(in), flags: tcpACK, payload: []byte("x")}
					f := p.bytes()
					ok := out.Decapsulate(f)
					res, deliver := want[[2]ECN{in, out}]
					if ok != deliver {
						t.Fatalf("v6 %v inner %d outer %d: deliver %v, want %v", v6, in, out, ok, deliver)
					}
					if !ok {
						continue
					}
					p.tos = 0xa8 | byte(res)
					equalFrames(t, [][]byte{f}, [][]byte{p.bytes()})
					if tos, ok := TOS(f); !ok || tos != p.tos {
						t.Fatalf("TOS %#x, %v; want %#x", tos, ok, p.tos)
					}
				}
			}
		}
	}
	arp := make([]byte, 42)
	arp[12], arp[13] = 8, 6
	if !CE.Decapsulate(arp) || !CE.Decapsulate(arp[:5]) {
		t.Error("what is not IP must pass")
	}
}

// FuzzFrame runs every reader of unchecked frames over any bytes, which must
// not panic nor look beyond them, and checks that a frame's flow does not
// depend on what follows the headers.
func FuzzFrame(f *testing.F) {
	f.Add(packet{ttl: 64, flags: tcpACK, payload: []byte("x")}.bytes(), uint8(3))
	f.Add(packet{v6: true, udp: true, vlans: []uint16{1, 2}, payload: []byte("x")}.bytes(), uint8(3))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08\x06\x00\x01\x08\x00\x06\x04"), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, ecn uint8) {
		b = b[:len(b):len(b)]
		ParseHeader(b)
		TOS(b)
		InnerSource(b)
		h := FlowHash(b)
		if tr, ok := parseTransport(b, false); ok {
			c := bytes.Clone(b)
			for i := tr.payload; i < len(c); i++ {
				c[i]++
			}
			if FlowHash(c) != h {
				t.Fatal("the hash depends on the payload")
			}
		}
		if before := len(b); ECN(ecn).Decapsulate(b) && len(b) != before {
			t.Fatal("length changed")
		}
		_ = FinishChecksum(b, Offload{NeedsCsum: true, CsumStart: uint16(ecn), CsumOffset: 16}) // must not panic
	})
}

func TestInnerSource(t *testing.T) {
	arp := make([]byte, 42)
	copy(arp[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2, 10, 3, 0, 9})
	for want, f := range map[string][]byte{
		"10.1.0.2": packet{vlans: []uint16{7}, udp: true}.bytes(),
		"fd00::1":  packet{v6: true, udp: true}.bytes(),
		"10.3.0.9": arp,
	} {
		if a, ok := InnerSource(f); !ok || a != netip.MustParseAddr(want) {
			t.Errorf("%v, %v; want %s", a, ok, want)
		}
	}
	if a, ok := InnerSource(arp[:41]); ok {
		t.Errorf("a truncated ARP has source %s", a)
	}
}

func TestFlowHashSpreads(t *testing.T) {
	p := packet{ttl: 64, flags: tcpACK, payload: []byte("x")}
	var buckets [16]int
	for port := range 1600 {
		p.srcPort = uint16(40000 + port)
		buckets[FlowHash(p.bytes())%16]++
	}
	for i, n := range buckets {
		if n < 50 || n > 150 {
			t.Errorf("bucket %d has %d of 1600 flows: %v", i, n, buckets)
		}
	}
}

// The hot path must not allocate.
func TestNoAllocations(t *testing.T) {
	p := packet{ttl: 64, flags: tcpACK, tcpOpts: make([]byte, 12), payload: make([]byte, 40*1398)}
	f, o := p.super(1398)
	pkt := append(make([]byte, HeaderLen), f...)
	frames := p.slowCut(1398)
	first := bytes.Clone(frames[0])
	var c Cutter
	var m Merger
	buf := make([]byte, MaxSend)
	small := packet{udp: true, ttl: 64, payload: make([]byte, 64)}.bytes()
	d := append([]byte{8, 0, 0, 0, 0, 0, 1, 0}, small...)
	work := map[string]func(){
		"cut": func() {
			if c.Start(1, pkt, o) != nil {
				t.Fatal("Start")
			}
			c.Next(buf, MaxSegments)
		},
		"merge": func() {
			copy(frames[0], first)
			for _, f := range frames {
				m.Add(f, 1, allowAll)
			}
			m.Runs()[0].Finish()
			m.Reset()
		},
		"single": func() {
			ParseHeader(d)
			FlowHash(small)
			TOS(small)
			InnerSource(small)
			CE.Decapsulate(small)
			_ = FinishChecksum(small, Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 6})
			m.Add(small, 1, allowAll)
			m.Reset()
		},
	}
	for name, fn := range work {
		fn() // a Run's list of parts grows to its size once
		if n := testing.AllocsPerRun(100, fn); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkChecksum(b *testing.B) {
	buf := make([]byte, 1400)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		Checksum(buf, 0)
	}
}

func BenchmarkFlowHash(b *testing.B) {
	f := packet{ttl: 64, flags: tcpACK, payload: make([]byte, 1400)}.bytes()
	b.ReportAllocs()
	for b.Loop() {
		FlowHash(f)
	}
}
