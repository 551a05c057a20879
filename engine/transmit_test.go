// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"kohaku/encap"
	"kohaku/tun"
)

// A script is a queue that gives, in each read, what the test says.
type script struct {
	tun.Queue
	reads [][]scripted
}

type scripted struct {
	data []byte
	o    encap.Offload
}

func (s *script) Read(arena []byte, frames []tun.Frame) (int, error) {
	if len(s.reads) == 0 {
		return 0, nil
	}
	now := s.reads[0]
	s.reads = s.reads[1:]
	for i, f := range now {
		buf := arena[: tun.Headroom+len(f.data) : tun.Headroom+len(f.data)]
		copy(buf[tun.Headroom:], f.data)
		frames[i] = tun.Frame{Buf: buf, Offload: f.o}
		arena = arena[len(buf):]
	}
	return len(now), nil
}

// sender is a pair with the means to send from its first end. got returns the frames
// of what its second end writes next.
func sender(t *testing.T) (tn *tunnel, c *txContext, got func() [][]byte) {
	p := newPair(t, allOffloads)
	d := p.tunnel(101, tun.Offloads{TSO: true, USO: true})
	c = p.e[0].borrow()
	t.Cleanup(func() { p.e[0].giveBack(c) })
	return p.e[0].lookup(101), c, func() [][]byte { return expand(t, receive(t, d[1])) }
}

// What is left of one super-frame leaves with the next: no call is half empty but
// the last.
func TestCallsAreFilled(t *testing.T) {
	tn, c, got := sender(t)
	const seg, per, supers = 1398, 46, 20
	payload := pattern(per * seg)
	f, o := tcpSuper(payload, seg)
	q := &script{}
	for range supers {
		q.reads = append(q.reads, []scripted{{f, o}})
	}
	if err := c.drain(tn, q); err != nil {
		t.Fatal(err)
	}
	arrived := 0
	for arrived < supers*per {
		arrived += len(got())
	}
	const fit = encap.MaxSend / (encap.HeaderLen + 54 + seg)
	if calls, want := tn.tx.calls.Load(), uint64((supers*per+fit-1)/fit); calls != want {
		t.Errorf("%d calls for %d datagrams, want %d", calls, supers*per, want)
	}
	if n := tn.tx.frames.Load(); n != supers*per {
		t.Errorf("%d frames counted, want %d", n, supers*per)
	}
	if c.msg.count != 0 {
		t.Error("something was left")
	}
}

// Super-frames of all sizes and small frames, of several flows, as reads happen to
// bring them: everything arrives, each flow in order.
func TestSendAcrossReads(t *testing.T) {
	tn, c, got := sender(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	var want [3][]byte // what each flow carries
	var all [][]scripted
	add := func(now *[]scripted) (super bool) {
		flow, n := rnd.IntN(len(want)), 1+rnd.IntN(300)
		if flow == 0 { // small frames
			payload := random(n)
			*now = append(*now, scripted{udpFrame(7, payload), encap.Offload{}})
			want[0] = append(want[0], payload...)
			return false
		}
		seg := []int{500, 1398}[rnd.IntN(2)]
		if n = seg * (1 + rnd.IntN(50)); n > 60_000 {
			n = 60_000
		}
		if rnd.IntN(3) == 0 {
			n -= rnd.IntN(seg) // the last segment is short
		}
		payload := random(n)
		f, o := tcpSuper(payload, seg)
		f[37] = byte(flow) // a port
		binary.BigEndian.PutUint32(f[38:], uint32(len(want[flow])))
		binary.BigEndian.PutUint16(f[50:], encap.Checksum(f[26:34], 6+uint16(20+len(payload))))
		want[flow] = append(want[flow], payload...)
		*now = append(*now, scripted{f, o})
		return true
	}
	for range 60 {
		var now []scripted
		for range 1 + rnd.IntN(4) {
			if add(&now) && rnd.IntN(4) > 0 {
				break // as a TAP does; other devices go on
			}
			if len(now) == 3 {
				break
			}
		}
		all = append(all, now)
	}
	// In pieces that a socket's buffer holds.
	q := &script{}
	var have [3][]byte
	arrived := 0
	for len(all) > 0 {
		n := min(len(all), 1+rnd.IntN(8))
		sent := 0
		for _, r := range all[:n] {
			for _, f := range r {
				sent += len(f.data)
				if f.o.GSO == encap.GSONone {
					sent -= 42
				} else {
					sent -= 54
				}
			}
		}
		for q.reads = all[:n]; len(q.reads) > 0; {
			if err := c.drain(tn, q); err != nil {
				t.Fatal(err)
			}
		}
		all = all[n:]
		for end := arrived + sent; arrived < end; {
			for _, f := range got() {
				flow, payload := 0, f[42:]
				if f[23] == 6 {
					flow, payload = int(f[37]), f[54:]
					if seq := binary.BigEndian.Uint32(f[38:]); int(seq) != len(have[flow]) {
						t.Fatalf("flow %d: byte %d where %d was to come", flow, seq, len(have[flow]))
					}
				}
				have[flow] = append(have[flow], payload...)
				arrived += len(payload)
			}
		}
	}
	for flow := range want {
		if !bytes.Equal(have[flow], want[flow]) {
			t.Errorf("flow %d: %d bytes arrived, not the %d that were sent", flow, len(have[flow]), len(want[flow]))
		}
	}
}
