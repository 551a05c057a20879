// SPDX-License-Identifier: Apache-2.0

package netstack_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kohaku/encap"
	"kohaku/engine"
	"kohaku/tun"
	"kohaku/tun/netstack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The tests need no privileges: two stacks, joined by two engines on loopback.
//
//	stack a -- engine at 127.0.0.1 == UDP == engine at 127.0.0.2 -- stack b
//	10.1.0.1, fd00:1::1                              10.1.0.2, fd00:1::2
type pair struct {
	d [2]*netstack.Device
	e [2]*engine.Engine
}

var (
	underlay = [2]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	overlay  = [2][2]string{{"10.1.0.1", "fd00:1::1"}, {"10.1.0.2", "fd00:1::2"}}
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

func newPair(t testing.TB, o netstack.Options) *pair {
	t.Helper()
	p := &pair{}
	port := freePort(t)
	for i := range p.d {
		o.Addrs = []netip.Prefix{netip.MustParsePrefix(overlay[i][0] + "/16"), netip.MustParsePrefix(overlay[i][1] + "/64")}
		d, err := netstack.New(o)
		if err != nil {
			t.Fatal(err)
		}
		e, err := engine.New(engine.Config{Listen: underlay[i : i+1], Port: port, UDPGSO: true, UDPGRO: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		if err := e.Add(engine.Tunnel{VNI: 101, Device: d, Peer: engine.Peer{Remote: underlay[1-i], Local: underlay[i]}}); err != nil {
			t.Fatal(err)
		}
		p.d[i], p.e[i] = d, e
	}
	return p
}

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// connect makes a TCP connection from a to b.
func (p *pair) connect(t testing.TB, network, host string) (a, b net.Conn) {
	t.Helper()
	l := must(p.d[1].Listen(network, net.JoinHostPort(host, "0")))(t)
	defer l.Close()
	type accepted struct {
		c   net.Conn
		err error
	}
	ch := make(chan accepted, 1)
	go func() {
		c, err := l.Accept()
		ch <- accepted{c, err}
	}()
	a = must(p.d[0].DialContext(timeout(t), network, l.Addr().String()))(t)
	r := <-ch
	b = must(r.c, r.err)(t)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// stream sends n bytes from one end and compares the hash at the other.
func stream(t testing.TB, from, to net.Conn, n int64) {
	t.Helper()
	sent, errs := sha256.New(), make(chan error, 1)
	go func() {
		src := rand.NewChaCha8([32]byte{7})
		_, err := io.CopyBuffer(struct{ io.Writer }{from}, io.TeeReader(io.LimitReader(src, n), sent), make([]byte, 256<<10))
		errs <- errors.Join(err, from.(interface{ CloseWrite() error }).CloseWrite())
	}()
	got := sha256.New()
	m, err := io.CopyBuffer(got, struct{ io.Reader }{to}, make([]byte, 256<<10))
	if err := errors.Join(err, <-errs); err != nil {
		t.Fatal(err)
	}
	if m != n || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Fatalf("%d of %d bytes, or other ones", m, n)
	}
}

func TestTCP(t *testing.T) {
	for _, c := range []struct {
		network string
		family  int
		plain   bool
		size    int64
	}{
		{"tcp", 0, false, 64 << 20}, {"tcp6", 1, false, 64 << 20}, {"tcp4", 0, true, 8 << 20}, {"tcp6", 1, true, 8 << 20},
	} {
		t.Run(fmt.Sprintf("%s,plain=%v", c.network, c.plain), func(t *testing.T) {
			p := newPair(t, netstack.Options{NoOffloads: c.plain})
			a, b := p.connect(t, c.network, overlay[1][c.family])
			start := time.Now()
			stream(t, a, b, c.size)
			stream(t, b, a, c.size)
			t.Logf("%.2f Gbit/s", float64(2*c.size)*8/time.Since(start).Seconds()/1e9)
			for i, e := range p.e {
				s := e.Tunnels()[0]
				if (s.Tx.SuperFrames > 0) == c.plain {
					t.Errorf("%d super-frames left", s.Tx.SuperFrames)
				}
				if n := p.d[i].Dropped(); n != 0 {
					t.Errorf("%d frames dropped", n)
				}
				if s.Drops["bad_offload"] != 0 || s.Drops["device_refused"] != 0 {
					t.Errorf("%v", s.Drops)
				}
			}
		})
	}
}

func TestUDPEcho(t *testing.T) {
	p := newPair(t, netstack.Options{})
	for f := range 2 {
		s := must(p.d[1].ListenPacket("udp", net.JoinHostPort(overlay[1][f], "0")))(t)
		go func() {
			b := make([]byte, 65536)
			for {
				n, from, err := s.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = s.WriteTo(b[:n], from) // the client notices
			}
		}()
		c := must(p.d[0].DialContext(timeout(t), "udp", s.LocalAddr().String()))(t)
		for _, n := range []int{1, 100, 1400, 9000} { // the last in fragments
			out, in := bytes.Repeat([]byte{byte(n)}, n), make([]byte, 65536)
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := c.Write(out); err != nil {
				t.Fatal(err)
			}
			if m, err := c.Read(in); err != nil || !bytes.Equal(in[:m], out) {
				t.Fatalf("%d bytes came back as %d, %v", n, m, err)
			}
		}
		s.Close()
		// Nobody listens there now: the peer says so, and the next call tells.
		var err error
		for range 1000 {
			if _, err = c.Write([]byte("x")); err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("after the socket was closed: %v", err)
		}
		c.Close()
	}
}

func TestDialErrors(t *testing.T) {
	p := newPair(t, netstack.Options{})
	for f := range 2 {
		addr := net.JoinHostPort(overlay[1][f], "9")
		c, err := p.d[0].DialContext(timeout(t), "tcp", addr)
		var o *net.OpError
		if c != nil || !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &o) || o.Addr.String() != addr {
			t.Errorf("a port where nobody listens: %v", err)
		}
	}
	if _, err := p.d[0].DialContext(timeout(t), "tcp", "192.0.2.1:80"); !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("without a route: %v", err)
	}
	if _, err := p.d[0].DialContext(timeout(t), "tcp", "10.1.0.99:80"); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("a machine that is not there: %v", err)
	}
	for network, addr := range map[string]string{
		"tcp": "example.org:80", "tcp4": "[fd00:1::2]:80", "tcp6": "10.1.0.2:80", "udp": "10.1.0.2", "unix": "10.1.0.2:80", "udp4": ":80",
	} {
		if c, err := p.d[0].DialContext(timeout(t), network, addr); err == nil {
			c.Close()
			t.Errorf("%s %s: accepted", network, addr)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.d[0].DialContext(ctx, "tcp", "10.1.0.2:80"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	l := must(p.d[0].Listen("tcp", "10.1.0.1:80"))(t)
	defer l.Close()
	if _, err := p.d[0].Listen("tcp", "10.1.0.1:80"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listening twice: %v", err)
	}
	for _, n := range []string{"udp", "tcp7"} {
		if _, err := p.d[0].Listen(n, ":0"); err == nil {
			t.Errorf("Listen on %s", n)
		}
	}
	if _, err := p.d[0].ListenPacket("tcp", ":0"); err == nil {
		t.Error("ListenPacket on tcp")
	}
}

// The wildcard takes both families, and net/http works on top.
func TestWildcardAndHTTP(t *testing.T) {
	p := newPair(t, netstack.Options{})
	l := must(p.d[1].Listen("tcp", ":80"))(t)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello ", r.RemoteAddr)
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tr := &http.Transport{DialContext: p.d[0].DialContext}
	for f := range 2 {
		resp := must((&http.Client{Transport: tr}).Get("http://" + net.JoinHostPort(overlay[1][f], "80")))(t)
		body := must(io.ReadAll(resp.Body))(t)
		resp.Body.Close()
		if from, ok := bytes.CutPrefix(body, []byte("hello ")); !ok || !bytes.Contains(from, []byte(overlay[0][f])) {
			t.Errorf("%s", body)
		}
	}
	tr.CloseIdleConnections()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// Closing wakes whoever waits, with net.ErrClosed, and tells the peer.
func TestCloseConnection(t *testing.T) {
	p := newPair(t, netstack.Options{})
	a, b := p.connect(t, "tcp", overlay[1][0])
	read := func(c net.Conn) chan error {
		ch := make(chan error, 1)
		go func() {
			_, err := c.Read(make([]byte, 1))
			ch <- err
		}()
		return ch
	}
	peer := read(b)
	a.Close()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading after Close: %v", err)
	}
	if _, err := a.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing after Close: %v", err)
	}
	if err := a.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closing twice: %v", err)
	}
	if err := <-peer; err != io.EOF {
		t.Errorf("the peer read %v, want EOF", err)
	}
	a, _ = p.connect(t, "tcp", overlay[1][0])
	a.SetReadDeadline(time.Now().Add(time.Millisecond))
	var ne net.Error
	if _, err := a.Read(make([]byte, 1)); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("after the deadline: %v", err)
	}
	l := must(p.d[0].Listen("tcp", ":0"))(t)
	ch := make(chan error, 1)
	go func() {
		_, err := l.Accept()
		ch <- err
	}()
	l.Close()
	if err := <-ch; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
}

// Closing the device ends everything on it, whoever closes it.
func TestCloseDevice(t *testing.T) {
	p := newPair(t, netstack.Options{})
	a, _ := p.connect(t, "tcp", overlay[1][0])
	l := must(p.d[0].Listen("tcp", ":0"))(t)
	u := must(p.d[0].ListenPacket("udp", ":0"))(t)
	errs := make(chan error, 3)
	go func() { _, err := a.Read(make([]byte, 1)); errs <- err }()
	go func() { _, err := l.Accept(); errs <- err }()
	go func() { _, _, err := u.ReadFrom(make([]byte, 1)); errs <- err }()
	if err := p.e[0].Remove(101); err != nil {
		t.Fatal(err)
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, want net.ErrClosed", err)
		}
	}
	if _, err := p.d[0].DialContext(timeout(t), "tcp", "10.1.0.2:80"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial: %v", err)
	}
	if _, err := p.d[0].Listen("tcp", ":0"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Listen: %v", err)
	}
	q := p.d[0].Queues()[0]
	if err := q.Wait(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Wait: %v", err)
	}
	if _, err := q.Read(make([]byte, tun.MinArena), make([]tun.Frame, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read: %v", err)
	}
	if _, err := q.Write([]encap.Run{{Parts: [][]byte{make([]byte, 60)}}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write: %v", err)
	}
	if err := p.d[0].Close(); err != nil {
		t.Error(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	p4, p6 := netip.MustParsePrefix("10.1.0.1/16"), netip.MustParsePrefix("fd00::1/64")
	for name, o := range map[string]netstack.Options{
		"no address":   {},
		"MTU":          {MTU: 100, Addrs: []netip.Prefix{p4}},
		"MTU for IPv6": {MTU: 1000, Addrs: []netip.Prefix{p6}},
		"group MAC":    {HardwareAddr: [6]byte{1}, Addrs: []netip.Prefix{p4}},
		"group":        {Addrs: []netip.Prefix{netip.MustParsePrefix("224.0.0.1/4")}},
		"two gateways": {Addrs: []netip.Prefix{p4}, Gateways: []netip.Addr{p4.Addr(), p4.Addr().Next()}},
		"twice":        {Addrs: []netip.Prefix{p4, p4}},
	} {
		if d, err := netstack.New(o); err == nil {
			d.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

// Frames that are not for the stack, or not what they are said to be, are
// dropped and counted; nothing is sent in return.
func TestDropsFrames(t *testing.T) {
	d, err := netstack.New(netstack.Options{Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/16")}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	mac := d.HardwareAddr()
	bad := encap.Offload{NeedsCsum: true, CsumStart: 500}
	runs := []encap.Run{
		{Parts: [][]byte{mac[:]}},
		{Parts: [][]byte{{2, 9, 9, 9, 9, 9}, make([]byte, 60)}},
		{Parts: [][]byte{mac[:], make([]byte, 60)}, Offload: bad},
		{Parts: [][]byte{mac[:], make([]byte, 70000)}},
	}
	if n, err := d.Queues()[0].Write(runs); n != len(runs) || err != nil {
		t.Fatal(n, err)
	}
	if n := d.Dropped(); n != uint64(len(runs)) {
		t.Errorf("%d dropped", n)
	}
	if n, err := d.Queues()[0].Read(make([]byte, tun.MinArena), make([]tun.Frame, 1)); n != 0 || err != nil {
		t.Error(n, err)
	}
}

// BenchmarkTCP is one stream over loopback, super-frames against single ones.
func BenchmarkTCP(b *testing.B) {
	for _, plain := range []bool{false, true} {
		b.Run(fmt.Sprintf("plain=%v", plain), func(b *testing.B) {
			p := newPair(b, netstack.Options{NoOffloads: plain})
			from, to := p.connect(b, "tcp", overlay[1][0])
			buf := make([]byte, 256<<10)
			go func() {
				for {
					if _, err := from.Write(buf); err != nil {
						return
					}
				}
			}()
			in := make([]byte, len(buf))
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				if _, err := io.ReadFull(to, in); err != nil {
					b.Fatal(err)
				}
			}
			from.Close()
		})
	}
}
