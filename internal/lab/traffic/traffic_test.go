// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"kohaku/internal/lab"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if err := lab.Enter(lab.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// pair is two machines on a switch.
func pair(t *testing.T, c lab.UnderlayConfig) (a, b *lab.UnderlayHost) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	n := must[*lab.Net](t)(lab.NewNet())
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	c.Names = []string{"a", "b"}
	u := must[*lab.Underlay](t)(n.Underlay(ctx, c))
	return u.Hosts[0], u.Hosts[1]
}

// in opens something in a node.
func in[T io.Closer](t *testing.T, n *lab.Node, open func() (T, error)) T {
	t.Helper()
	var v T
	if err := n.Do(func() (err error) { v, err = open(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func TestSourceDependsOnlyOnItsSeed(t *testing.T) {
	a, b := make([]byte, 300001), make([]byte, 300001)
	must[int](t)(NewSource(1).Read(a))
	src := NewSource(1)
	for i, n := 0, 1; i < len(b); i, n = i+n, n*3 {
		n = min(n, len(b)-i)
		must[int](t)(src.Read(b[i : i+n]))
	}
	if !bytes.Equal(a, b) {
		t.Error("the content depends on how it is read")
	}
	must[int](t)(NewSource(2).Read(b))
	if bytes.Equal(a, b) {
		t.Error("two seeds, one content")
	}
	for i := chunkSize; i+chunkSize <= len(a); i += chunkSize {
		if bytes.Equal(a[:chunkSize], a[i:i+chunkSize]) {
			t.Errorf("the chunk at %d is the first one again", i)
		}
	}
}

func TestTCP(t *testing.T) {
	a, b := pair(t, lab.UnderlayConfig{})
	for _, v6 := range []bool{false, true} {
		sink := in(t, b.Node, func() (*TCPSink, error) { return ListenTCP(netip.AddrPortFrom(b.Addr(v6), 0)) })
		for _, size := range []int64{0, 1, 70000, 64 << 20} {
			s := in(t, a.Node, func() (*TCPStream, error) { return DialTCP(t.Context(), a.Addr(v6), sink.Addr()) })
			r := must[TCPResult](t)(s.Send(t.Context(), 7, size))
			if r.Bytes != size {
				t.Errorf("%d bytes sent, want %d", r.Bytes, size)
			}
		}
	}
}

// A stream that is changed on its way must not pass for a good one.
func TestTCPNoticesChangedContent(t *testing.T) {
	sink := must[*TCPSink](t)(ListenTCP(netip.MustParseAddrPort("127.0.0.1:0")))
	defer sink.Close()
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	relayed := make(chan error, 1)
	go func() { relayed <- relayChanging(l, sink.Addr(), 50000) }()
	s := must[*TCPStream](t)(DialTCP(t.Context(), netip.Addr{}, l.Addr().(*net.TCPAddr).AddrPort()))
	if _, err := s.Send(t.Context(), 1, 100000); err == nil {
		t.Error("a changed byte went unnoticed")
	}
	if err := <-relayed; err != nil {
		t.Error(err)
	}
}

// relayChanging passes one stream on with one bit changed, and the answer back.
func relayChanging(l net.Listener, to netip.AddrPort, at int) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	data, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	data[at] ^= 4
	d, err := net.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Write(data); err != nil {
		return err
	}
	if err := d.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	_, err = io.Copy(c, d)
	return err
}

func TestUDP(t *testing.T) {
	a, b := pair(t, lab.UnderlayConfig{})
	sink := in(t, b.Node, func() (*UDPSink, error) { return ListenUDP(netip.AddrPortFrom(b.V6, 0)) })
	sender := in(t, a.Node, func() (*UDPSender, error) { return DialUDP(a.V6, sink.Addr()) })
	var sizes []int
	for size := MinUDP; size < 3000; size++ {
		sizes = append(sizes, size)
	}
	if err := sender.SendAll(t.Context(), sink, sizes, 64, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := sender.SendTrain(1000, 40); err != nil {
		t.Fatal(err)
	}
	want := uint64(len(sizes) + 40)
	if err := sink.Wait(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	if got := sink.Stats(); got.Received != want || got.Corrupt+got.Duplicated+got.Reordered != 0 || sender.Sent() != want {
		t.Errorf("sent %d, arrived %+v", sender.Sent(), got)
	}
	if drops := must[uint64](t)(sink.SocketDrops()); drops != 0 {
		t.Errorf("%d dropped for lack of room", drops)
	}
}

func TestUDPSinkCountsWhatIsWrong(t *testing.T) {
	s := &UDPSink{}
	u := &UDPSender{rng: rand.NewChaCha8([32]byte{})}
	datagram := func(n uint64) []byte {
		return append([]byte(nil), u.fill(make([]byte, 0, 100), n, 100)...)
	}
	s.take(datagram(5))
	s.take(datagram(7))
	s.take(datagram(6))
	s.take(datagram(5))
	bad := datagram(8)
	bad[50] ^= 1
	s.take(bad)
	renumbered := datagram(8)
	renumbered[7]++
	s.take(renumbered)
	s.take(datagram(9)[:60])
	s.take([]byte("short"))
	want := UDPStats{Received: 3, Bytes: 300, Duplicated: 1, Reordered: 1, Corrupt: 4}
	if s.stats != want {
		t.Errorf("counted %+v, want %+v", s.stats, want)
	}
}

func TestPing(t *testing.T) {
	a, b := pair(t, lab.UnderlayConfig{})
	// IPv6 first: setting a device down takes its IPv6 addresses away.
	for _, v6 := range []bool{true, false} {
		header := 28
		if v6 {
			header = 48
		}
		p := in(t, a.Node, func() (*Pinger, error) { return NewPinger(a.Addr(v6), b.Addr(v6)) })
		for _, size := range []int{0, 1, 2, 1000, 1500 - header} {
			if _, err := p.Ping(t.Context(), size); err != nil {
				t.Error(err)
			}
		}
		if _, err := p.Ping(t.Context(), 1500-header+1); !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("one past the MTU: %v, want EMSGSIZE", err)
		}
		if err := b.SetDown("eth0"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := p.Ping(ctx, 0); err == nil {
			t.Error("a machine whose cable is out answers")
		}
		cancel()
		if err := b.SetUp("eth0"); err != nil {
			t.Fatal(err)
		}
	}
}

// Frames that cross an underlay of profile wire are no larger than its MTU;
// without it, super-frames cross. The kernel's own VXLAN is the witness for
// tunnels.
func TestProfiles(t *testing.T) {
	for _, profile := range []lab.Profile{lab.Offload, lab.Wire} {
		t.Run(string(profile), func(t *testing.T) {
			a, b := pair(t, lab.UnderlayConfig{Profile: profile})
			overlayA, overlayB := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.1.0.2")
			for _, x := range []struct {
				h, peer *lab.UnderlayHost
				addr    netip.Addr
			}{{a, b, overlayA}, {b, a, overlayB}} {
				v := lab.KernelVXLAN{Name: "vx0", VNI: 5, Local: x.h.V4, Remote: x.peer.V4, MTU: 1450}
				if err := x.h.AddKernelVXLAN(v); err != nil {
					t.Fatal(err)
				}
				if err := x.h.AddAddr("vx0", netip.PrefixFrom(x.addr, 24)); err != nil {
					t.Fatal(err)
				}
			}
			capture := must[*lab.Capture](t)(b.Port.Capture(func(p lab.Packet) bool { return !p.Outgoing }))
			for _, addr := range []netip.Addr{b.V4, overlayB} {
				sink := in(t, b.Node, func() (*TCPSink, error) { return ListenTCP(netip.AddrPortFrom(addr, 0)) })
				s := in(t, a.Node, func() (*TCPStream, error) { return DialTCP(t.Context(), netip.Addr{}, sink.Addr()) })
				must[TCPResult](t)(s.Send(t.Context(), 7, 4<<20))
			}
			packets, err := capture.Stop()
			if err != nil {
				t.Fatal(err)
			}
			largest := map[string]int{}
			for _, p := range packets {
				kind := "plain"
				if len(p.Data) > 50 && p.Data[23] == unix.IPPROTO_UDP {
					kind = "tunnel"
				}
				largest[kind] = max(largest[kind], len(p.Data))
			}
			for _, kind := range []string{"plain", "tunnel"} {
				if whole := largest[kind] > 1514; whole != (profile == lab.Offload) || largest[kind] == 0 {
					t.Errorf("largest %s frame is %d bytes", kind, largest[kind])
				}
			}
		})
	}
}
