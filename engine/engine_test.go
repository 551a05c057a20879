// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kohaku/encap"
	"kohaku/tun"
	"kohaku/tun/tuntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tests join two engines in memory:
//
//	tuntest device a -- engine at 127.0.0.1 == UDP on loopback == engine at 127.0.0.2 -- tuntest device b
//
// Both listen on the same port of different loopback addresses.
type pair struct {
	t    testing.TB
	e    [2]*Engine
	port uint16
}

var (
	addrs = [2]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	macs  = [2][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
)

func freePort(t testing.TB) uint16 {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4zero})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func newPair(t testing.TB, c Config) *pair {
	t.Helper()
	p := &pair{t: t, port: freePort(t)}
	for i := range p.e {
		c.Port, c.Listen = p.port, addrs[i:i+1]
		e, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		p.e[i] = e
	}
	return p
}

// tunnel adds VNI v at both ends and returns the devices. The first has queues
// with a descriptor, so that a poller serves it, the second has a goroutine.
func (p *pair) tunnel(v encap.VNI, o tun.Offloads) [2]*tuntest.Device {
	p.t.Helper()
	var d [2]*tuntest.Device
	for i := range d {
		d[i] = tuntest.New(tuntest.Config{Name: fmt.Sprintf("dev%d-%d", v, i), MAC: macs[i], Offloads: o, Pollable: i == 0})
		err := p.e[i].Add(Tunnel{VNI: v, Device: d[i], Peer: Peer{Remote: addrs[1-i], Local: addrs[i]}})
		if err != nil {
			p.t.Fatal(err)
		}
	}
	return d
}

func receive(t testing.TB, d *tuntest.Device) tuntest.Frame {
	t.Helper()
	select {
	case f := <-d.Received():
		return f
	case <-time.After(10 * time.Second):
		t.Fatalf("nothing arrived at %s", d.Name())
		panic("unreachable")
	}
}

// eventually waits for something that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

// udpFrame builds an inner UDP frame from a to b.
func udpFrame(port uint16, payload []byte) []byte {
	f := append(append([]byte{}, macs[1][:]...), macs[0][:]...)
	f = append(f, 8, 0, 0x45, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(28+len(payload)))
	f = append(f, 0, 1, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2)
	binary.BigEndian.PutUint16(f[24:], ^encap.Checksum(f[14:34], 0))
	f = binary.BigEndian.AppendUint16(f, port)
	f = append(f, 0x12, 0x34)
	f = binary.BigEndian.AppendUint16(f, uint16(8+len(payload)))
	f = append(f, 0, 0)
	f = append(f, payload...)
	pseudo := encap.Checksum(f[26:34], 17+uint16(8+len(payload)))
	binary.BigEndian.PutUint16(f[40:], ^encap.Checksum(f[34:], pseudo))
	return f
}

// tcpSuper builds a TCP super-frame as a kernel passes it.
func tcpSuper(payload []byte, seg int) ([]byte, encap.Offload) {
	f := append(append([]byte{}, macs[1][:]...), macs[0][:]...)
	f = append(f, 8, 0, 0x45, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(40+len(payload)))
	f = append(f, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2)
	binary.BigEndian.PutUint16(f[24:], ^encap.Checksum(f[14:34], 0))
	f = append(f, 0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0, 0, 0, 0, 0)
	sum := encap.Checksum(f[26:34], 6)
	n := uint32(20 + len(payload))
	sum = encap.Checksum([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, sum)
	binary.BigEndian.PutUint16(f[50:], sum)
	f = append(f, payload...)
	return f, encap.Offload{GSO: encap.GSOTCP4, SegSize: uint16(seg), HdrLen: 54, NeedsCsum: true, CsumStart: 34, CsumOffset: 16}
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

var allOffloads = Config{UDPGSO: true, UDPGRO: true}

// Every combination of offloads carries the same frames to the other side.
func TestCarry(t *testing.T) {
	for _, c := range []Config{allOffloads, {UDPGSO: true}, {UDPGRO: true}, {}} {
		for _, super := range []bool{true, false} {
			t.Run(fmt.Sprintf("gso=%v,gro=%v,super=%v", c.UDPGSO, c.UDPGRO, super), func(t *testing.T) {
				p := newPair(t, c)
				d := p.tunnel(101, tun.Offloads{TSO: super, USO: super})

				small := [][]byte{}
				for i := range 200 {
					// Runs of equal length, broken by others and by other flows.
					f := udpFrame(uint16(i/50), pattern(64+i%7/6))
					small = append(small, f)
					d[0].Inject(0, f, encap.Offload{})
				}
				got := map[uint16][][]byte{}
				for n := 0; n < len(small); {
					f := receive(t, d[1])
					for _, one := range expand(t, f) {
						port := binary.BigEndian.Uint16(one[34:])
						got[port] = append(got[port], one)
						n++
					}
				}
				for port := range uint16(4) {
					for i, f := range got[port] {
						want := small[int(port)*50+i]
						if !sameButID(f, want) {
							t.Fatalf("flow %d frame %d:\n got %x\nwant %x", port, i, f, want)
						}
					}
				}

				payload := pattern(44 * 1398)
				f, o := tcpSuper(payload, 1398)
				d[0].Inject(0, f, o)
				var back []byte
				for len(back) < len(payload) {
					for _, one := range expand(t, receive(t, d[1])) {
						back = append(back, one[54:]...)
					}
				}
				if !bytes.Equal(back, payload) {
					t.Fatal("the TCP payload changed on its way")
				}
				eventually(t, "the sender counts all frames", func() bool { return p.e[0].Tunnels()[0].Tx.Frames == 200+44 })
				for i := range p.e {
					if s := p.e[i].Tunnels()[0]; len(s.Drops) != 0 {
						t.Errorf("end %d dropped: %+v", i, s)
					}
				}
				eventually(t, "the receiver counts all frames", func() bool { return p.e[1].Tunnels()[0].Rx.Frames == 200+44 })
			})
		}
	}
}

// sameButID compares IPv4 frames without identification and header checksum.
func sameButID(a, b []byte) bool {
	a, b = bytes.Clone(a), bytes.Clone(b)
	for _, f := range [][]byte{a, b} {
		clear(f[18:20])
		clear(f[24:26])
	}
	return bytes.Equal(a, b)
}

// expand cuts what was written to a device into plain frames.
func expand(t testing.TB, f tuntest.Frame) [][]byte {
	t.Helper()
	if f.Offload.GSO == encap.GSONone {
		if err := encap.FinishChecksum(f.Data, f.Offload); err != nil {
			t.Fatal(err)
		}
		return [][]byte{f.Data}
	}
	var out [][]byte
	for _, r := range newSplitter().split(&encap.Run{Parts: [][]byte{f.Data}, Offload: f.Offload}) {
		out = append(out, r.Parts[0])
	}
	if len(out) == 0 {
		t.Fatal("a super-frame that cannot be cut was written")
	}
	return out
}

// The device hands a checksum to be finished; what arrives must be whole.
func TestFinishesChecksums(t *testing.T) {
	p := newPair(t, allOffloads)
	d := p.tunnel(1, tun.Offloads{})
	want := udpFrame(9, pattern(33))
	f := bytes.Clone(want)
	sum := encap.Checksum(f[26:34], 17+uint16(8+33))
	binary.BigEndian.PutUint16(f[40:], sum)
	d[0].Inject(0, f, encap.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 6})
	if got := receive(t, d[1]).Data; !bytes.Equal(got, want) {
		t.Errorf("got %x\nwant %x", got, want)
	}
}

func TestManyTunnelsKeepApart(t *testing.T) {
	p := newPair(t, allOffloads)
	var devs [][2]*tuntest.Device
	for v := range 255 {
		devs = append(devs, p.tunnel(encap.VNI(100+v), tun.Offloads{TSO: true}))
	}
	for v, d := range devs {
		f := udpFrame(uint16(v), []byte{byte(v)})
		copy(f[6:], macs[v%2][:])
		d[v%2].Inject(0, f, encap.Offload{})
	}
	for v, d := range devs {
		to := d[1-v%2]
		if f := receive(t, to); f.Data[42] != byte(v) {
			t.Fatalf("tunnel %d got the frame of another: %x", v, f.Data)
		}
	}
	for _, d := range devs {
		for _, one := range d {
			if len(one.Received()) != 0 {
				t.Fatal("a frame too many")
			}
		}
	}
}

func TestChangeUnderTraffic(t *testing.T) {
	p := newPair(t, allOffloads)
	d := p.tunnel(5, tun.Offloads{TSO: true, USO: true})
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		f, o := tcpSuper(pattern(20000), 1398)
		small := udpFrame(1, pattern(100))
		for !stop.Load() {
			d[0].Inject(0, f, o)
			d[0].Inject(0, small, encap.Offload{})
			time.Sleep(50 * time.Microsecond)
		}
	}()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for {
			select {
			case <-d[1].Received():
			case <-done:
				return
			}
		}
	}()
	for v := encap.VNI(1000); v < 1100; v++ {
		other := p.tunnel(v, tun.Offloads{})
		// The underlay is full, and UDP: one frame may be lost.
		eventually(t, "a new tunnel carries", func() bool {
			other[0].Inject(0, udpFrame(2, []byte("hello")), encap.Offload{})
			return len(other[1].Received()) > 0
		})
		if err := p.e[1].Update(5, Peer{Remote: netip.MustParseAddr("127.0.0.9"), Local: addrs[1]}); err != nil {
			t.Fatal(err)
		}
		if err := p.e[1].Update(5, Peer{Remote: addrs[0], Local: addrs[1]}); err != nil {
			t.Fatal(err)
		}
		for i := range p.e {
			if err := p.e[i].Remove(v); err != nil {
				t.Fatal(err)
			}
			if !other[i].Closed() {
				t.Fatal("Remove left the device open")
			}
		}
	}
	before := p.e[1].Tunnels()[0].Rx.Frames
	eventually(t, "traffic goes on", func() bool { return p.e[1].Tunnels()[0].Rx.Frames > before })
	stop.Store(true)
	<-done
	<-drained
}

func TestAddErrors(t *testing.T) {
	p := newPair(t, allOffloads)
	p.tunnel(5, tun.Offloads{})
	d := tuntest.New(tuntest.Config{Name: "x"})
	defer d.Close()
	for name, c := range map[string]struct {
		t    Tunnel
		want string
	}{
		"VNI":         {Tunnel{VNI: 1 << 24, Peer: Peer{Remote: addrs[1]}}, "VNI 16777216"},
		"twice":       {Tunnel{VNI: 5, Peer: Peer{Remote: addrs[1]}}, ErrTunnelExists.Error()},
		"no remote":   {Tunnel{VNI: 6}, "remote address is missing"},
		"multicast":   {Tunnel{VNI: 6, Peer: Peer{Remote: netip.MustParseAddr("239.1.1.1")}}, "single machine"},
		"families":    {Tunnel{VNI: 6, Peer: Peer{Remote: addrs[1], Local: netip.MustParseAddr("::1")}}, "different families"},
		"to itself":   {Tunnel{VNI: 6, Peer: Peer{Remote: addrs[1], Local: addrs[1]}}, "loop"},
		"not open":    {Tunnel{VNI: 6, Peer: Peer{Remote: netip.MustParseAddr("fd00::1")}}, "no address of this family"},
		"mapped self": {Tunnel{VNI: 6, Peer: Peer{Remote: netip.MustParseAddr("::ffff:127.0.0.2"), Local: addrs[1]}}, "loop"},
	} {
		c.t.Device = d
		err := p.e[0].Add(c.t)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want something with %q", name, err, c.want)
		}
		if d.Closed() {
			t.Fatalf("%s: a refused tunnel's device was closed", name)
		}
	}
	if err := p.e[0].Remove(6); !errors.Is(err, ErrNoTunnel) {
		t.Errorf("Remove: %v", err)
	}
	if err := p.e[0].Update(6, Peer{Remote: addrs[1]}); !errors.Is(err, ErrNoTunnel) {
		t.Errorf("Update: %v", err)
	}
	p.e[0].Close()
	if err := p.e[0].Add(Tunnel{VNI: 6, Device: d, Peer: Peer{Remote: addrs[1]}}); !errors.Is(err, ErrClosed) {
		t.Errorf("Add after Close: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: addrs[0].AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	_, err = New(Config{Port: port, Listen: addrs[:1]})
	var in *PortInUseError
	if !errors.As(err, &in) || !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("%v", err)
	}
	if want := fmt.Sprintf("this very process (pid %d)", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("%v: does not name the holder, %s", err, want)
	}
	// A second engine of the same user must not slip in through SO_REUSEPORT.
	p := newPair(t, Config{Workers: 3})
	if _, err := New(Config{Port: p.port, Listen: addrs[:1], Workers: 3}); !errors.As(err, &in) {
		t.Errorf("a second engine on the same port: %v", err)
	}
}

func TestDeviceFails(t *testing.T) {
	p := newPair(t, allOffloads)
	d := p.tunnel(4, tun.Offloads{})
	for i := range d {
		d[i].Fail()
		f := <-p.e[i].Failures()
		if f.VNI != 4 || f.Device != d[i].Name() || !errors.Is(f.Err, tun.ErrGone) {
			t.Errorf("%+v", f)
		}
	}
	d = p.tunnel(5, tun.Offloads{})
	d[1].Fail()
	<-p.e[1].Failures()
	d[0].Inject(0, udpFrame(1, []byte("x")), encap.Offload{})
	eventually(t, "counted", func() bool { return p.e[1].Tunnels()[1].Drops["device_gone"] == 1 })
	if s := p.e[1].Tunnels()[1]; s.Err == "" {
		t.Error("the tunnel's state does not show the failure")
	}
	// It can be added anew.
	if err := p.e[1].Remove(5); err != nil {
		t.Fatal(err)
	}
	n := tuntest.New(tuntest.Config{Name: "again", MAC: macs[1]})
	if err := p.e[1].Add(Tunnel{VNI: 5, Device: n, Peer: Peer{Remote: addrs[0], Local: addrs[1]}}); err != nil {
		t.Fatal(err)
	}
	d[0].Inject(0, udpFrame(1, []byte("y")), encap.Offload{})
	receive(t, n)
}

// refusing is a device whose kernel offers super-frames and then refuses them.
type refusing struct {
	*tuntest.Device
	refused atomic.Int32
}

type refusingQueue struct {
	tun.Queue
	d *refusing
}

func (r *refusing) Queues() []tun.Queue { return []tun.Queue{refusingQueue{r.Device.Queues()[0], r}} }

func (q refusingQueue) Write(runs []encap.Run) (int, error) {
	for i := range runs {
		if runs[i].Offload.GSO != encap.GSONone {
			q.d.refused.Add(1)
			return i, &tun.WriteError{Device: "x", Super: true, Err: unix.EINVAL}
		}
		if _, err := q.Queue.Write(runs[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(runs), nil
}

func TestDeviceRefusesSuperFrames(t *testing.T) {
	p := newPair(t, allOffloads)
	d0 := tuntest.New(tuntest.Config{Name: "a", MAC: macs[0]})
	d1 := &refusing{Device: tuntest.New(tuntest.Config{Name: "b", MAC: macs[1], Offloads: tun.Offloads{TSO: true, USO: true}})}
	for i, d := range []tun.Device{d0, d1} {
		if err := p.e[i].Add(Tunnel{VNI: 5, Device: d, Peer: Peer{Remote: addrs[1-i], Local: addrs[i]}}); err != nil {
			t.Fatal(err)
		}
	}
	payload := pattern(30 * 1000)
	f, o := tcpSuper(payload, 1000)
	for range 3 {
		d0.Inject(0, f, o)
		var got []byte
		for range 30 {
			one := receive(t, d1.Device)
			if one.Offload != (encap.Offload{}) {
				t.Fatalf("%+v", one.Offload)
			}
			if pseudo := encap.Checksum(one.Data[26:34], 6+uint16(len(one.Data)-34)); encap.Checksum(one.Data[34:], pseudo) != 0xffff {
				t.Fatal("a single frame without a right checksum")
			}
			got = append(got, one.Data[54:]...)
		}
		if !bytes.Equal(got, payload) {
			t.Fatal("lost, twice or out of order")
		}
	}
	if n := d1.refused.Load(); n != 1 {
		t.Errorf("tried %d times, want once", n)
	}
}

// A kernel that refuses UDP_SEGMENT in use: the datagrams are too large for
// loopback's MTU when cut, so it answers EMSGSIZE or EINVAL, and each has to
// be sent by itself.
func TestGSORefused(t *testing.T) {
	p := newPair(t, allOffloads)
	d := p.tunnel(5, tun.Offloads{})
	big := udpFrame(1, pattern(30000))
	for range 3 {
		d[0].Inject(0, big, encap.Offload{})
	}
	for range 3 {
		if got := receive(t, d[1]); !bytes.Equal(got.Data, big) {
			t.Fatal("changed")
		}
	}
	eventually(t, "counted once each", func() bool { return p.e[0].Tunnels()[0].Tx.Frames == 3 })
}

func TestNoDescriptorLeak(t *testing.T) {
	count := func() int {
		l, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	newOne := func() {
		e, err := New(Config{Port: freePort(t), Listen: addrs[:1], Workers: 2, UDPGSO: true, UDPGRO: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		// And when opening fails halfway.
		if e, err := New(Config{Port: 1, Listen: []netip.Addr{addrs[0], netip.MustParseAddr("192.0.2.99")}}); err == nil {
			e.Close()
			t.Fatal("listening on another machine's address worked")
		}
	}
	newOne()
	before := count()
	for range 10 {
		newOne()
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors, then %d", before, after)
	}
}
