// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"sync"
	"testing"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"kohaku/encap"
	"kohaku/tun"
)

// fake is a TUN in memory: what is sent to kernel comes out of Read, and got
// holds what was written.
type fake struct {
	batch  int
	kernel chan [][]byte
	events chan wgtun.Event
	closed chan struct{}
	gone   chan struct{}

	mu       sync.Mutex
	got      [][]byte
	calls    []int // packets per Write
	writeErr func(n int) error
	readErr  error
}

func newFake(batch int) *fake {
	return &fake{batch: batch, kernel: make(chan [][]byte, 64), events: make(chan wgtun.Event, 5),
		closed: make(chan struct{}), gone: make(chan struct{})}
}

func (f *fake) File() *os.File             { return nil }
func (f *fake) MTU() (int, error)          { return 1450, nil }
func (f *fake) Name() (string, error)      { return "fake0", nil }
func (f *fake) Events() <-chan wgtun.Event { return f.events }
func (f *fake) BatchSize() int             { return f.batch }

func (f *fake) Close() error {
	close(f.closed)
	close(f.events)
	return nil
}

func (f *fake) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case p := <-f.kernel:
		for i := range p {
			sizes[i] = copy(bufs[i][offset:], p[i])
		}
		return len(p), nil
	case <-f.closed:
		return 0, os.ErrClosed
	case <-f.gone:
		f.mu.Lock()
		defer f.mu.Unlock()
		return 0, f.readErr
	}
}

func (f *fake) Write(bufs [][]byte, offset int) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, len(bufs))
	if f.writeErr != nil {
		if err := f.writeErr(len(bufs)); err != nil {
			return 0, err
		}
	}
	total := 0
	for i := range bufs {
		f.got = append(f.got, bytes.Clone(bufs[i][offset:]))
		total += len(bufs[i])
		// Merging leaves its traces.
		bufs[i] = append(bufs[i], 1, 2, 3)
	}
	return total, nil
}

// take returns what was written since the last call.
func (f *fake) take() [][]byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.got
	f.got = nil
	return g
}

var (
	ourMAC   = [6]byte{2, 0, 0, 0, 0, 1}
	peerMAC  = [6]byte{2, 0, 0, 0, 0, 2}
	otherMAC = [6]byte{2, 0, 0, 0, 0, 3}
	our4     = netip.MustParseAddr("10.1.0.254")
	peer4    = netip.MustParseAddr("10.1.0.1")
	our6     = netip.MustParseAddr("fd00::fe")
	peer6    = netip.MustParseAddr("fd00::1")
)

type rig struct {
	t *testing.T
	f *fake
	d *Device
}

func newRig(t *testing.T, o Options) *rig {
	t.Helper()
	f := newFake(8)
	o.HardwareAddr = ourMAC
	if o.Addrs == nil {
		o.Addrs = []netip.Addr{our4, our6}
	}
	d, err := New(f, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return &rig{t, f, d}
}

// read waits for frames and returns copies of all that are there.
func (r *rig) read() (all [][]byte) {
	r.t.Helper()
	q := r.d.Queues()[0]
	arena, frames := make([]byte, 2*tun.MinArena), make([]tun.Frame, 16)
	for len(all) == 0 {
		if err := q.Wait(); err != nil {
			r.t.Fatal(err)
		}
		for {
			n, err := q.Read(arena, frames)
			if err != nil {
				r.t.Fatal(err)
			}
			if n == 0 {
				break
			}
			for _, f := range frames[:n] {
				all = append(all, bytes.Clone(f.Data()))
			}
		}
	}
	return all
}

// pending returns the frames that are there, without waiting.
func (r *rig) pending() (all [][]byte) {
	r.t.Helper()
	arena, frames := make([]byte, 2*tun.MinArena), make([]tun.Frame, 16)
	for {
		n, err := r.d.Queues()[0].Read(arena, frames)
		if err != nil {
			r.t.Fatal(err)
		}
		if n == 0 {
			return all
		}
		for _, f := range frames[:n] {
			all = append(all, bytes.Clone(f.Data()))
		}
	}
}

// write sends frames in from the tunnel, each in two parts.
func (r *rig) write(frames ...[]byte) {
	r.t.Helper()
	var runs []encap.Run
	for _, f := range frames {
		cut := min(len(f), 20)
		runs = append(runs, encap.Run{Parts: [][]byte{f[:cut], f[cut:]}})
	}
	if n, err := r.d.Queues()[0].Write(runs); n != len(runs) || err != nil {
		r.t.Fatal(n, err)
	}
}

func (r *rig) drops(want map[string]uint64) {
	r.t.Helper()
	got := r.d.Stats().Drops
	for k, v := range want {
		if got[k] != v {
			r.t.Errorf("drops %v, want %v", got, want)
			return
		}
	}
	if len(got) != len(want) {
		r.t.Errorf("drops %v, want %v", got, want)
	}
}

// udp builds a UDP packet whose checksums are right.
func udp(src, dst netip.Addr, payload string) []byte {
	n := 8 + len(payload)
	u := binary.BigEndian.AppendUint16(nil, 5000)
	u = binary.BigEndian.AppendUint16(u, 6000)
	u = binary.BigEndian.AppendUint16(u, uint16(n))
	u = append(append(u, 0, 0), payload...)
	sum := encap.Checksum(dst.AsSlice(), encap.Checksum(src.AsSlice(), 17+uint16(n)))
	binary.BigEndian.PutUint16(u[6:], ^encap.Checksum(u, sum))
	return append(ipHeader(src, dst, 17, n, 64), u...)
}

func ipHeader(src, dst netip.Addr, proto byte, n int, hops byte) []byte {
	var b []byte
	if src.Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+n))
		b = append(b, 0, 1, 0, 0, hops, proto, 0, 0)
		b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
		binary.BigEndian.PutUint16(b[10:], ^encap.Checksum(b, 0))
		return b
	}
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, proto, hops)
	return append(append(b, src.AsSlice()...), dst.AsSlice()...)
}

// eth puts an Ethernet header in front of an IP packet.
func eth(dst, src [6]byte, ip []byte) []byte {
	t := uint16(etherIPv4)
	if ip[0]>>4 == 6 {
		t = etherIPv6
	}
	b := make([]byte, ethLen, ethLen+len(ip))
	putEthernet(b, dst, src, t)
	return append(b, ip...)
}
