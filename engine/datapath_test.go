// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/binary"
	"testing"

	"kohaku/encap"
	"kohaku/tun"
	"kohaku/tun/tuntest"
)

// discard is a device that takes everything and keeps nothing.
type discard struct{ *tuntest.Device }

type discardQueue struct{ tun.Queue }

func (d discard) Queues() []tun.Queue                          { return []tun.Queue{discardQueue{d.Device.Queues()[0]}} }
func (discardQueue) Write(runs []encap.Run) (n int, err error) { return len(runs), nil }

// bench returns an engine with one tunnel on a device that discards, a
// receiver and a context of it that the caller works by hand.
func bench(t testing.TB) (*Engine, *tunnel, *receiver, *txContext) {
	p := newPair(t, allOffloads)
	d := discard{tuntest.New(tuntest.Config{Name: "d", MAC: macs[1], Offloads: tun.Offloads{TSO: true, USO: true}})}
	if err := p.e[1].Add(Tunnel{VNI: 101, Device: d, Peer: Peer{Remote: addrs[0], Local: addrs[1]}}); err != nil {
		t.Fatal(err)
	}
	e := p.e[1]
	c := e.borrow()
	t.Cleanup(func() { e.giveBack(c) })
	return e, e.lookup(101), newReceiver(e, 0, &e.stages), c
}

func fromPeer(t testing.TB, e *Engine) addrKey { return e.lookup(101).peer.Load().key }

// Neither direction allocates per frame, super-frame or datagram.
func TestHotPathDoesNotAllocate(t *testing.T) {
	e, tn, r, c := bench(t)
	super, o := tcpSuper(pattern(40*1398), 1398)
	small := udpFrame(1, pattern(64))
	small[20] = 0x40 // DF, so that copies of it can be merged
	binary.BigEndian.PutUint16(small[24:], 0)
	binary.BigEndian.PutUint16(small[24:], ^encap.Checksum(small[14:34], 0))
	superBuf := append(make([]byte, tun.Headroom), super...)
	smallBuf := append(make([]byte, tun.Headroom), small...)
	frames := []tun.Frame{{Buf: superBuf, Offload: o}, {Buf: smallBuf}, {Buf: smallBuf}, {Buf: smallBuf}}
	data := bytes.Repeat(vxlan(101, small), 20)
	m := inMessage{data: bytes.Clone(data), from: fromPeer(t, e), segment: len(data) / 20}

	for name, fn := range map[string]func(){
		"send": func() {
			c.sendFrames(tn, tn.queues[0], frames)
			c.flush(tn)
		},
		"receive": func() {
			copy(m.data, data)
			r.message(m)
			r.deliver()
			r.account(nil)
		},
	} {
		fn()
		if n := testing.AllocsPerRun(100, fn); n != 0 {
			t.Errorf("%s: %v allocations a call", name, n)
		}
	}
	if tn.rx.super.Load() == 0 {
		t.Error("the receive path under test did not merge")
	}
}

// FuzzReceive gives the receive path any message from the peer: it must not
// panic, and every datagram must be accounted for.
func FuzzReceive(f *testing.F) {
	super := vxlan(101, udpFrame(1, pattern(50)))
	f.Add(super, 0, uint8(0))
	f.Add(bytes.Repeat(super, 3), len(super), uint8(3))
	f.Add([]byte{8}, 1, uint8(2))
	f.Add(vxlan(101, make([]byte, 14)), 0, uint8(3))
	bad := bytes.Clone(super)
	bad[22] = 0x4f // IPv4 header length beyond the frame
	f.Add(bad, 0, uint8(0))
	whole, _ := tcpSuper(pattern(5000), 1000)
	f.Add(vxlan(101, whole), 0, uint8(0))
	f.Add(vxlan(101, udpFrame(1, pattern(5000))), 1000, uint8(0))
	e, tn, r, _ := bench(f)
	from := fromPeer(f, e)
	total := func() (n uint64) {
		for d := range numDrops {
			n += e.drops[d].Load() + tn.drops[d].Load()
		}
		return n + tn.rx.frames.Load()
	}
	f.Fuzz(func(t *testing.T, data []byte, segment int, ecn uint8) {
		if len(data) > rxBuffer {
			return
		}
		before := total()
		r.message(inMessage{data: bytes.Clone(data), from: from, segment: segment, ecn: encap.ECN(ecn & 3)})
		r.deliver()
		r.account(nil)
		want := uint64(1)
		if segment > 0 && segment < len(data) {
			want = uint64((len(data) + segment - 1) / segment)
			if len(data) > encap.HeaderLen && encap.WholeSuperFrame(data[encap.HeaderLen:], segment, 0) {
				want = 1
			}
		}
		if got := total() - before; got != want {
			t.Fatalf("%d datagrams went in, %d were accounted for", want, got)
		}
	})
}

// FuzzControl reads control messages from any bytes.
func FuzzControl(f *testing.F) {
	b := make([]byte, 24)
	binary.NativeEndian.PutUint32(putCmsg(b, solUDP, udpGRO, 4), 1400)
	f.Add(b)
	f.Add(append(bytes.Clone(b), b[:17]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		seen := 0
		eachCmsg(b[:len(b):len(b)], func(_, _ int32, data []byte) { seen += 16 + len(data) })
		if seen > len(b) {
			t.Fatalf("%d bytes of messages in %d bytes", seen, len(b))
		}
	})
}

func BenchmarkReceiveSmall(b *testing.B) {
	e, _, r, _ := bench(b)
	one := vxlan(101, udpFrame(1, pattern(64)))
	data := bytes.Repeat(one, 32)
	work := make([]byte, len(data))
	m := inMessage{data: work, from: fromPeer(b, e), segment: len(one)}
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		copy(work, data)
		r.message(m)
		r.deliver()
		r.account(nil)
	}
}

func BenchmarkSendSuper(b *testing.B) {
	_, tn, _, c := bench(b)
	f, o := tcpSuper(pattern(44*1398), 1398)
	frames := []tun.Frame{{Buf: append(make([]byte, tun.Headroom), f...), Offload: o}}
	b.ReportAllocs()
	b.SetBytes(int64(len(f)))
	for b.Loop() {
		c.sendFrames(tn, tn.queues[0], frames)
		c.flush(tn)
	}
}
