// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

var allowAll = Allow{TCP: true, UDP: true}

// expand gives back the frames that runs stand for, by the reference cutter's
// way of thinking: header of the first, payload by segment.
func expand(t testing.TB, runs []Run) [][]byte {
	t.Helper()
	var out [][]byte
	for i := range runs {
		r := &runs[i]
		r.Finish()
		f := bytes.Join(r.Parts, nil)
		if r.Offload.GSO == GSONone {
			if r.Frames != 1 {
				t.Fatalf("%d frames without GSO", r.Frames)
			}
			out = append(out, f)
			continue
		}
		frames := cutAll(t, f, r.Offload, 64)
		if len(frames) != r.Frames {
			t.Fatalf("a run of %d frames was cut into %d", r.Frames, len(frames))
		}
		out = append(out, frames...)
	}
	return out
}

func TestMergeGivesBackTheSuperFrame(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var m Merger
	for range 2000 {
		p := randomPacket(r)
		seg := len(p.payload)/(1+r.IntN(40)) + 1
		if p.udp && seg == len(p.payload)+1 {
			seg-- // one datagram, which is no super-frame
		}
		want, o := p.super(seg)
		frames := p.slowCut(seg)
		m.Reset()
		for _, f := range frames {
			if !m.Add(f, 9, allowAll) {
				t.Fatal("no room in an empty merger")
			}
		}
		runs := m.Runs()
		if len(runs) != 1 {
			t.Fatalf("%d frames of one flow became %d runs", len(frames), len(runs))
		}
		runs[0].Finish()
		got := bytes.Join(runs[0].Parts, nil)
		if len(frames) == 1 {
			want, o = p.bytes(), Offload{}
		}
		equalFrames(t, [][]byte{got}, [][]byte{want})
		if runs[0].Offload != o || runs[0].Tag != 9 || runs[0].Frames != len(frames) {
			t.Fatalf("run %+v tag %d frames %d, want offload %+v", runs[0].Offload, runs[0].Tag, runs[0].Frames, o)
		}
	}
}

// Two segments that follow each other but for one difference must stay apart,
// and leave unchanged and in order.
func TestMergeKeepsApart(t *testing.T) {
	base := packet{ttl: 64, tos: 0, flags: tcpACK, id: 7, seq: 100, ack: 5, window: 9, tcpOpts: make([]byte, 12), payload: make([]byte, 500)}
	next := base
	next.id, next.seq = 8, 600
	udp := packet{udp: true, ttl: 64, id: 7, srcPort: 4, payload: make([]byte, 500)}
	udpNext := udp
	udpNext.id = 8

	set := func(p packet, fn func(*packet)) []byte { fn(&p); return p.bytes() }
	same := func(*packet) {}
	raw := func(p packet, fn func(f []byte) []byte) []byte { return fn(p.bytes()) }
	cases := map[string][2][]byte{
		"TTL":              {base.bytes(), set(next, func(p *packet) { p.ttl = 63 })},
		"TOS":              {base.bytes(), set(next, func(p *packet) { p.tos = 8 })},
		"ECN":              {base.bytes(), set(next, func(p *packet) { p.tos = 3 })},
		"DF":               {base.bytes(), set(next, func(p *packet) { p.df = true })},
		"identification":   {base.bytes(), set(next, func(p *packet) { p.id = 9 })},
		"same id, no DF":   {base.bytes(), set(next, func(p *packet) { p.id = 7 })},
		"options":          {base.bytes(), set(next, func(p *packet) { p.ipOpts = []byte{1, 1, 1, 0} })},
		"options on both":  {set(base, func(p *packet) { p.ipOpts = []byte{1, 1, 1, 0} }), set(next, func(p *packet) { p.ipOpts = []byte{1, 1, 1, 0} })},
		"port":             {base.bytes(), set(next, func(p *packet) { p.srcPort = 1 })},
		"gap":              {base.bytes(), set(next, func(p *packet) { p.seq = 601 })},
		"overlap":          {base.bytes(), set(next, func(p *packet) { p.seq = 599 })},
		"acknowledgement":  {base.bytes(), set(next, func(p *packet) { p.ack = 6 })},
		"window":           {base.bytes(), set(next, func(p *packet) { p.window = 10 })},
		"timestamp":        {base.bytes(), set(next, func(p *packet) { p.tcpOpts = bytes.Repeat([]byte{1}, 12) })},
		"option length":    {base.bytes(), set(next, func(p *packet) { p.tcpOpts = nil })},
		"URG":              {base.bytes(), set(next, func(p *packet) { p.flags |= tcpURG })},
		"SYN":              {base.bytes(), set(next, func(p *packet) { p.flags |= tcpSYN })},
		"RST":              {base.bytes(), set(next, func(p *packet) { p.flags |= tcpRST })},
		"CWR":              {base.bytes(), set(next, func(p *packet) { p.flags |= tcpCWR })},
		"after PSH":        {set(base, func(p *packet) { p.flags |= tcpPSH }), next.bytes()},
		"after FIN":        {set(base, func(p *packet) { p.flags |= tcpFIN }), next.bytes()},
		"longer":           {base.bytes(), set(next, func(p *packet) { p.payload = make([]byte, 501) })},
		"pure ACK between": {base.bytes(), set(next, func(p *packet) { p.payload = nil })},
		"family":           {base.bytes(), set(next, func(p *packet) { p.v6 = true })},
		"VLAN":             {set(base, func(p *packet) { p.vlans = []uint16{3} }), set(next, func(p *packet) { p.vlans = []uint16{3} })},
		"MAC address":      {base.bytes(), raw(next, func(f []byte) []byte { f[5]++; return f })},
		"flow label":       {set(base, func(p *packet) { p.v6 = true }), raw(set6(next), func(f []byte) []byte { f[17]++; return f })},
		"fragment":         {base.bytes(), raw(next, func(f []byte) []byte { f[20] |= 0x20; return fixIPv4(f) })},
		"padding":          {base.bytes(), append(next.bytes(), 0, 0)},
		"IPv4 checksum":    {base.bytes(), raw(next, func(f []byte) []byte { f[24]++; return f })},
		"TCP checksum":     {base.bytes(), raw(next, func(f []byte) []byte { f[len(f)-1]++; return f })},
		"UDP port":         {udp.bytes(), set(udpNext, func(p *packet) { p.srcPort = 5 })},
		"UDP longer":       {udp.bytes(), set(udpNext, func(p *packet) { p.payload = make([]byte, 501) })},
		"UDP length":       {udp.bytes(), raw(udpNext, func(f []byte) []byte { f[39]--; return f })},
		"UDP no checksum":  {udp.bytes(), raw(udpNext, func(f []byte) []byte { f[40], f[41] = 0, 0; return f })},
		"UDP empty":        {udp.bytes(), set(udpNext, func(p *packet) { p.payload = nil })},
	}
	// The table proves nothing unless the pairs merge without the difference.
	for _, pair := range [][2][]byte{{set(base, same), next.bytes()}, {udp.bytes(), udpNext.bytes()}, {set6(base).bytes(), set6(next).bytes()}} {
		var m Merger
		m.Add(bytes.Clone(pair[0]), 1, allowAll)
		m.Add(bytes.Clone(pair[1]), 1, allowAll)
		if len(m.Runs()) != 1 {
			t.Fatal("the pair does not merge even without a difference")
		}
	}
	for name, pair := range cases {
		t.Run(name, func(t *testing.T) {
			var m Merger
			m.Add(bytes.Clone(pair[0]), 1, allowAll)
			m.Add(bytes.Clone(pair[1]), 1, allowAll)
			if len(m.Runs()) != 2 {
				t.Fatalf("%d runs, want 2", len(m.Runs()))
			}
			equalFrames(t, expand(t, m.Runs()), pair[:])
		})
	}
	t.Run("tag", func(t *testing.T) {
		var m Merger
		m.Add(base.bytes(), 1, allowAll)
		m.Add(next.bytes(), 2, allowAll)
		if r := m.Runs(); len(r) != 2 || r[0].Tag != 1 || r[1].Tag != 2 {
			t.Fatalf("runs of different tags were mixed: %d runs", len(r))
		}
	})
	t.Run("not allowed", func(t *testing.T) {
		var m Merger
		m.Add(base.bytes(), 1, Allow{UDP: true})
		m.Add(next.bytes(), 1, Allow{UDP: true})
		m.Add(udp.bytes(), 1, Allow{TCP: true})
		m.Add(udpNext.bytes(), 1, Allow{TCP: true})
		if len(m.Runs()) != 4 {
			t.Fatalf("%d runs, want 4", len(m.Runs()))
		}
	})
}

func set6(p packet) packet { p.v6 = true; return p }

// fixIPv4 makes the header's checksum right again.
func fixIPv4(f []byte) []byte {
	f[24], f[25] = 0, 0
	binary.BigEndian.PutUint16(f[24:], ^slowSum(f[14:34]))
	return f
}

// A datagram with DF may repeat the identification, as Linux sends it from
// unconnected sockets.
func TestMergeFixedID(t *testing.T) {
	p := packet{udp: true, df: true, ttl: 64, id: 0, payload: make([]byte, 100)}
	var m Merger
	for range 5 {
		m.Add(p.bytes(), 0, allowAll)
	}
	if r := m.Runs(); len(r) != 1 || r[0].Frames != 5 {
		t.Fatalf("%d runs", len(r))
	}
	// Once it repeats it must not start to count, nor the other way round.
	p.id = 1
	m.Add(p.bytes(), 0, allowAll)
	if r := m.Runs(); len(r) != 2 {
		t.Fatalf("an identification that changes its habit was merged: %d runs", len(r))
	}
}

func TestPartialChecksum(t *testing.T) {
	for _, p := range []packet{
		{ttl: 64, flags: tcpSYN, payload: nil},
		{v6: true, ttl: 64, flags: tcpACK, payload: make([]byte, 77)},
		{udp: true, ttl: 64, payload: []byte("hello")},
		{udp: true, v6: true, vlans: []uint16{9}, payload: []byte("hello")},
	} {
		f, o := p.super(1400) // leaves the pseudo-header's sum only
		var m Merger
		m.Add(bytes.Clone(f), 0, allowAll)
		r := &m.Runs()[0]
		r.Finish()
		want := Offload{NeedsCsum: true, CsumStart: o.CsumStart, CsumOffset: o.CsumOffset}
		if !r.Partial || r.Offload != want {
			t.Errorf("%+v: run %+v partial %v", p, r.Offload, r.Partial)
		}
		// What the kernel then does to it gives the frame with a whole checksum.
		got := bytes.Join(r.Parts, nil)
		if err := FinishChecksum(got, r.Offload); err != nil {
			t.Fatal(err)
		}
		equalFrames(t, [][]byte{got}, [][]byte{p.bytes()})

		// A whole checksum, or a plainly wrong one, is not touched.
		for _, f := range [][]byte{p.bytes(), func() []byte { b := p.bytes(); b[o.CsumStart+o.CsumOffset] ^= 0x55; return b }()} {
			m.Reset()
			m.Add(bytes.Clone(f), 0, allowAll)
			if r := &m.Runs()[0]; r.Partial || r.Offload != (Offload{}) {
				t.Errorf("a frame that is not partial was taken for it")
			}
		}
	}
}

// A super-frame that arrives whole leaves as one, and stands for the frames that
// it would have been cut into; with a whole checksum as with a partial one.
func TestAddSuper(t *testing.T) {
	for _, c := range []struct {
		p   packet
		seg int // as the kernel tells it; 0 for TCP
	}{
		{packet{ttl: 64, df: true, flags: tcpACK | tcpPSH, tcpOpts: make([]byte, 12), payload: make([]byte, 9000)}, 0},
		{packet{v6: true, ttl: 64, flags: tcpACK, vlans: []uint16{3}, payload: make([]byte, 9000)}, 0},
		{packet{udp: true, ttl: 64, payload: make([]byte, 9000)}, 1200},
		{packet{udp: true, v6: true, ttl: 64, payload: make([]byte, 1201)}, 1200},
	} {
		seg := c.seg
		if seg == 0 {
			l3, _, payload := c.p.headers()
			seg = 1450 - (payload - l3)
		}
		partialFrame, _ := c.p.super(seg)
		for _, f := range [][]byte{partialFrame, c.p.bytes()} {
			if !WholeSuperFrame(f, c.seg, 1450) {
				t.Fatalf("%+v: not recognised", c.p)
			}
			var m Merger
			if !m.AddSuper(bytes.Clone(f), 4, c.seg, 1450) {
				t.Fatal("no room")
			}
			r := &m.Runs()[0]
			r.Finish()
			if r.Offload.GSO == GSONone || r.Tag != 4 {
				t.Fatalf("%+v", r)
			}
			equalFrames(t, cutAll(t, bytes.Join(r.Parts, nil), r.Offload, 64), c.p.slowCut(seg))
		}
		wrong := c.p.bytes()
		wrong[len(wrong)-1] ^= 1
		var m Merger
		m.AddSuper(bytes.Clone(wrong), 4, c.seg, 1450)
		if r := m.Runs()[0]; r.Offload != (Offload{}) || !bytes.Equal(r.Parts[0], wrong) {
			t.Errorf("a frame with a wrong checksum was given a right one: %+v", r.Offload)
		}
	}
	small := packet{ttl: 64, flags: tcpACK, payload: make([]byte, 1410)}
	udp := packet{udp: true, ttl: 64, payload: make([]byte, 9000)}
	for name, is := range map[string]bool{
		"TCP of the MTU":               WholeSuperFrame(small.bytes(), 0, 1450),
		"UDP without a segment size":   WholeSuperFrame(udp.bytes(), 0, 1450),
		"UDP no larger than a segment": WholeSuperFrame(udp.bytes(), 9000, 1450),
		"the first of several":         WholeSuperFrame(append(udp.bytes(), udp.bytes()...), 1000, 1450),
	} {
		if is {
			t.Errorf("%s was taken for a super-frame", name)
		}
	}
}

// Frames of many flows, interleaved, with everything odd thrown in: every frame
// comes out once, unchanged, in the order of its flow.
func TestMergeKeepsOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 200 {
		type flow struct {
			p      packet
			frames [][]byte
		}
		var flows []*flow
		for i := range 1 + r.IntN(6) {
			p := randomPacket(r)
			p.srcPort = uint16(i)
			p.payload = p.payload[:min(len(p.payload), 6000)]
			f := &flow{p: p}
			f.frames = p.slowCut(100 + r.IntN(1400))
			if r.IntN(3) == 0 { // a hole
				k := r.IntN(len(f.frames))
				f.frames = append(f.frames[:k:k], f.frames[k+1:]...)
			}
			flows = append(flows, f)
		}
		var in [][]byte
		var m Merger
		var out [][]byte
		flush := func() { out = append(out, expand(t, m.Runs())...); m.Reset() }
		for left := flows; len(left) > 0; {
			k := r.IntN(len(left))
			if len(left[k].frames) == 0 {
				left = append(left[:k:k], left[k+1:]...)
				continue
			}
			burst := min(1+r.IntN(8), len(left[k].frames))
			for _, f := range left[k].frames[:burst] {
				in = append(in, f)
				if !m.Add(bytes.Clone(f), 0, allowAll) {
					flush()
					m.Add(bytes.Clone(f), 0, allowAll)
				}
			}
			left[k].frames = left[k].frames[burst:]
			if r.IntN(10) == 0 {
				flush()
			}
		}
		flush()
		port := func(f []byte) string {
			tr, _ := parseTransport(f, false)
			return string(f[tr.l4 : tr.l4+2])
		}
		byFlow := func(fs [][]byte) map[string][][]byte {
			m := map[string][][]byte{}
			for _, f := range fs {
				m[port(f)] = append(m[port(f)], f)
			}
			return m
		}
		got, want := byFlow(out), byFlow(in)
		if len(got) != len(want) {
			t.Fatalf("%d flows came out of %d", len(got), len(want))
		}
		for k := range want {
			equalFrames(t, got[k], want[k])
		}
	}
}

// A merged super-frame never needs more than one call to be sent on.
func TestMergeFitsOneSend(t *testing.T) {
	for _, seg := range []int{100, 1398, 8898} {
		p := packet{ttl: 64, df: true, flags: tcpACK, tcpOpts: make([]byte, 12), payload: make([]byte, 60000/seg*seg)}
		var m Merger
		total := 0
		for range 3 {
			for _, f := range p.slowCut(seg) {
				if !m.Add(f, 0, allowAll) {
					t.Fatal("full")
				}
				total++
			}
			p.seq += uint32(len(p.payload))
			p.id += uint16(len(p.payload) / seg)
		}
		for _, r := range m.Runs() {
			total -= r.Frames
			if n := r.Frames * (HeaderLen + 66 + seg); n > MaxSend || r.Frames > MaxSegments {
				t.Errorf("segments of %d: a run of %d frames, %d bytes of datagrams", seg, r.Frames, n)
			}
		}
		if total != 0 {
			t.Errorf("segments of %d: %d frames were lost", seg, total)
		}
	}
	for mtu, want := range map[InnerMTU]int{1450: 44, 8950: 7, 1430: 45} {
		// What the kernel then makes of it (net/ipv4/tcp.c, tcp_bound_to_half_wnd aside).
		segments := (OneSend(mtu) - 320 - 1) / (int(mtu) - 52)
		if segments != want || segments*(HeaderLen+EthernetLen+int(mtu)) > MaxSend {
			t.Errorf("MTU %d: %d segments, want %d", mtu, segments, want)
		}
	}
}

func TestMergeFull(t *testing.T) {
	var m Merger
	arp := make([]byte, 60)
	arp[12], arp[13] = 8, 6
	for range MaxRuns {
		if !m.Add(arp, 0, allowAll) {
			t.Fatal("full too early")
		}
	}
	p := packet{ttl: 64, flags: tcpACK, payload: []byte("x")}
	if m.Add(arp, 0, allowAll) || m.Add(p.bytes(), 0, allowAll) {
		t.Fatal("took more than MaxRuns")
	}
	if len(m.Runs()) != MaxRuns {
		t.Fatalf("%d runs", len(m.Runs()))
	}
	m.Reset()
	if len(m.Runs()) != 0 || !m.Add(arp, 0, allowAll) {
		t.Fatal("Reset does not make room")
	}
}

// sameRun reports whether two runs are the same in all but the memory they refer to.
func sameRun(a, b Run) bool {
	return slices.EqualFunc(a.Parts, b.Parts, bytes.Equal) && a.Offload == b.Offload && a.Tag == b.Tag && a.Frames == b.Frames &&
		a.Partial == b.Partial && a.bytes == b.bytes && a.next == b.next && a.id == b.id && a.fixed == b.fixed &&
		a.closed == b.closed && a.merged == b.merged
}

// FuzzMerge takes a stream of frames, each preceded by its length, and demands
// that cutting what was merged gives back the stream (per frame, since frames
// of different flows may change places). The short way of adding a
// frame and the long one must agree.
func FuzzMerge(f *testing.F) {
	stream := func(frames ...[]byte) []byte {
		var b []byte
		for _, f := range frames {
			b = binary.BigEndian.AppendUint16(b, uint16(len(f)))
			b = append(b, f...)
		}
		return b
	}
	p := packet{ttl: 64, flags: tcpACK | tcpPSH, tcpOpts: make([]byte, 12), payload: make([]byte, 3000)}
	u := packet{udp: true, v6: true, ttl: 64, payload: make([]byte, 900)}
	f.Add(stream(p.slowCut(1000)...))
	f.Add(stream(append(u.slowCut(300), p.slowCut(800)...)...))
	f.Add(stream(make([]byte, 60), p.bytes(), make([]byte, 14)))
	partialTCP, _ := p.super(4000)
	f.Add(stream(partialTCP))
	p.v6, p.tcpOpts = true, nil
	f.Add(stream(append(p.slowCut(500), p.slowCut(500)...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m, long Merger
		want := map[string]int{}
		n := 0
		for len(b) >= 2 && n < MaxRuns {
			l := int(binary.BigEndian.Uint16(b))
			if l < EthernetLen || l > len(b)-2 {
				break
			}
			frame := bytes.Clone(b[2 : 2+l])
			b = b[2+l:]
			want[fixedIDKey(frame)]++
			long.last = 0 // so that nothing goes the short way
			long.Add(bytes.Clone(frame), uint32(l%2), allowAll)
			if !m.Add(frame, uint32(l%2), allowAll) {
				t.Fatal("no room")
			}
			n++
		}
		if short, long := m.Runs(), long.Runs(); !slices.EqualFunc(short, long, sameRun) {
			t.Fatalf("the short way and the long one differ:\n%+v\n%+v", short, long)
		}
		for _, f := range expand(t, m.Runs()) {
			want[fixedIDKey(f)]--
		}
		for k, n := range want {
			if n != 0 {
				t.Fatalf("frame %x: came out %d times too few", k, n)
			}
		}
	})
}

// fixedIDKey is the frame, except that for IPv4 with DF the identification and
// the checksum over it, which merging may change, are left out.
func fixedIDKey(f []byte) string {
	if len(f) >= 34 && f[12] == 8 && f[13] == 0 && f[20]&0x40 != 0 {
		f = bytes.Clone(f)
		clear(f[18:20])
		clear(f[24:26])
	}
	return string(f)
}

func BenchmarkMerge(b *testing.B) {
	p := packet{ttl: 64, flags: tcpACK, tcpOpts: make([]byte, 12), payload: make([]byte, 44*1398)}
	frames := p.slowCut(1398)
	saved := bytes.Clone(frames[0][:66])
	var m Merger
	b.SetBytes(int64(len(p.payload)))
	b.ReportAllocs()
	for b.Loop() {
		copy(frames[0], saved) // Finish rewrote it
		for _, f := range frames {
			m.Add(f, 0, allowAll)
		}
		m.Runs()[0].Finish()
		m.Reset()
	}
}
