// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// cutAll runs the Cutter over a super-frame, limit segments a call, and
// returns the inner frames. It checks what Next promises about lengths.
func cutAll(t testing.TB, frame []byte, o Offload, limit int) [][]byte {
	t.Helper()
	pkt := append(make([]byte, HeaderLen), frame...)
	var c Cutter
	if err := c.Start(77, pkt, o); err != nil {
		t.Fatalf("Start: %v", err)
	}
	size, left := c.DatagramLen(), c.Segments()
	var out [][]byte
	buf := make([]byte, limit*size+rand.IntN(size))
	for {
		n, bytesCut := c.Next(buf, limit)
		if n == 0 {
			break
		}
		all := buf[:bytesCut]
		for i := range n {
			d := all[:min(size, len(all))]
			all = all[len(d):]
			left--
			if len(d) != size && (left != 0 || i != n-1) {
				t.Fatalf("a datagram of %d bytes, %d expected, %d still to come", len(d), size, left)
			}
			if v, fault := ParseHeader(d); v != 77 || fault != HeaderOK {
				t.Fatalf("header: VNI %d, fault %d", v, fault)
			}
			out = append(out, bytes.Clone(d[HeaderLen:]))
		}
		if len(all) != 0 {
			t.Fatalf("%d bytes more than %d datagrams of %d", len(all), n, size)
		}
	}
	if left != 0 {
		t.Fatalf("Segments was off by %d", left)
	}
	return out
}

func equalFrames(t testing.TB, got, want [][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for i := range got {
		if !bytes.Equal(got[i], want[i]) {
			n := 0
			for n < len(got[i]) && n < len(want[i]) && got[i][n] == want[i][n] {
				n++
			}
			t.Fatalf("frame %d of %d differs from byte %d on:\n got %x\nwant %x", i, len(got), n, got[i][n:min(len(got[i]), n+40)], want[i][n:min(len(want[i]), n+40)])
		}
	}
}

func TestCutAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		p := randomPacket(r)
		if r.IntN(4) == 0 {
			p.flags |= tcpCWR
		}
		for range r.IntN(3) {
			p.vlans = append(p.vlans, uint16(1+r.IntN(4094)))
		}
		if !p.v6 && r.IntN(4) == 0 {
			p.ipOpts = []byte{1, 1, 1, 0}
		}
		seg := 1 + r.IntN(3000)
		f, o := p.super(seg)
		equalFrames(t, cutAll(t, f, o, 1+r.IntN(70)), p.slowCut(seg))
	}
}

// The kernel may leave anything in hdr_len, and in a super-frame's IP and UDP
// lengths.
func TestCutIgnoresHints(t *testing.T) {
	p := packet{udp: true, ttl: 64, payload: make([]byte, 5000)}
	f, o := p.super(1000)
	o.HdrLen = 3
	f[16], f[17] = 0, 0 // IPv4 total length
	f[38], f[39] = 0, 0 // UDP length
	equalFrames(t, cutAll(t, f, o, 64), p.slowCut(1000))
}

func TestCutRefuses(t *testing.T) {
	tcp := packet{ttl: 64, flags: tcpACK, payload: make([]byte, 3000)}
	udp := packet{udp: true, ttl: 64, payload: make([]byte, 3000)}
	tcp6 := tcp
	tcp6.v6 = true
	cases := map[string]struct {
		p      packet
		change func(f []byte, o *Offload) []byte
	}{
		"segment size 0":        {tcp, func(f []byte, o *Offload) []byte { o.SegSize = 0; return f }},
		"TCP as UDP":            {tcp, func(f []byte, o *Offload) []byte { o.GSO = GSOUDP; return f }},
		"UDP as TCP":            {udp, func(f []byte, o *Offload) []byte { o.GSO = GSOTCP4; return f }},
		"IPv6 as IPv4":          {tcp6, func(f []byte, o *Offload) []byte { o.GSO = GSOTCP4; return f }},
		"IPv4 as IPv6":          {tcp, func(f []byte, o *Offload) []byte { o.GSO = GSOTCP6; return f }},
		"a fragment":            {tcp, func(f []byte, o *Offload) []byte { f[20] |= 0x20; return f }},
		"ICMP":                  {tcp, func(f []byte, o *Offload) []byte { f[23] = 1; return f }},
		"TCP header cut short":  {tcp, func(f []byte, o *Offload) []byte { return f[:14+20+19] }},
		"TCP offset past end":   {tcp, func(f []byte, o *Offload) []byte { f[46] = 0xf0; return f[:14+20+30] }},
		"TCP offset too small":  {tcp, func(f []byte, o *Offload) []byte { f[46] = 0x40; return f }},
		"no payload":            {tcp, func(f []byte, o *Offload) []byte { return f[:14+20+20] }},
		"only half an Ethernet": {tcp, func(f []byte, o *Offload) []byte { return f[:7] }},
		"three VLAN tags": {tcp, func(f []byte, o *Offload) []byte {
			tags := []byte{0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3}
			return append(append(bytes.Clone(f[:12]), tags...), f[12:]...)
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f, o := c.p.super(1000)
			f = c.change(f, &o)
			pkt := append(make([]byte, HeaderLen), f...)
			before := bytes.Clone(pkt)
			var cut Cutter
			if err := cut.Start(1, pkt, o); !errors.Is(err, ErrOffload) {
				t.Errorf("Start: %v, want ErrOffload", err)
			}
			if !bytes.Equal(pkt, before) {
				t.Error("a refused frame was changed")
			}
		})
	}
}

// FuzzCut feeds the Cutter any bytes as a super-frame: whatever it accepts, it
// must cut into frames that carry the payload, the whole payload and nothing
// but the payload, with right checksums.
func FuzzCut(f *testing.F) {
	for _, p := range []packet{
		{ttl: 64, flags: tcpACK | tcpPSH | tcpCWR, tcpOpts: make([]byte, 12), payload: make([]byte, 4000)},
		{v6: true, ttl: 64, flags: tcpACK | tcpFIN, payload: make([]byte, 100)},
		{udp: true, ttl: 1, vlans: []uint16{5, 6}, payload: make([]byte, 3000)},
		{udp: true, v6: true, payload: make([]byte, 1)},
	} {
		b, o := p.super(700)
		f.Add(b, byte(o.GSO), o.SegSize)
	}
	f.Fuzz(func(t *testing.T, frame []byte, gso byte, seg uint16) {
		if len(frame) > 65535+EthernetLen+8 || gso > byte(GSOUDP) {
			return
		}
		pkt := append(make([]byte, HeaderLen), frame...)
		var c Cutter
		if c.Start(1, pkt, Offload{GSO: GSO(gso), SegSize: seg}) != nil {
			return
		}
		want := bytes.Clone(pkt[c.hdrLen:])
		var got []byte
		buf := make([]byte, 64*c.DatagramLen())
		for {
			n, size := c.Next(buf, 64)
			if n == 0 {
				break
			}
			all := buf[:size]
			for range n {
				d := all[:min(c.DatagramLen(), len(all))]
				all = all[len(d):]
				inner := d[HeaderLen:]
				tr, ok := parseTransport(inner, false)
				if !ok || tr.end != len(inner) || !verify(inner, &tr) {
					t.Fatalf("a segment that does not parse or verify: %x", inner)
				}
				got = append(got, inner[tr.payload:]...)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("payload of %d bytes came out as %d bytes or changed", len(want), len(got))
		}
	})
}

func BenchmarkCut(b *testing.B) {
	p := packet{ttl: 64, flags: tcpACK, tcpOpts: make([]byte, 12), payload: make([]byte, 44*1398)}
	f, o := p.super(1398)
	pkt := append(make([]byte, HeaderLen), f...)
	var c Cutter
	buf := make([]byte, MaxSend)
	b.SetBytes(int64(len(p.payload)))
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Start(1, pkt, o); err != nil {
			b.Fatal(err)
		}
		if n, _ := c.Next(buf, MaxSegments); n != 44 {
			b.Fatalf("%d datagrams", n)
		}
	}
}
