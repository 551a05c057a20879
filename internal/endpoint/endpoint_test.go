// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"kohaku/engine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func freePort(t *testing.T) uint16 {
	t.Helper()
	c, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

func openEnd(t *testing.T, port uint16, i int) *Endpoint {
	t.Helper()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}) }
	e, err := Open(Config{
		VNI: 7, Port: port, Local: at(i), Remote: at(1 - i), UDPGSO: true, UDPGRO: true,
		Addrs: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.9.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd09::%d/64", i+1)),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// Two ends in one process, over loopback:
//
//	10.9.0.1 fd09::1 [stack - engine] 127.0.0.1 == UDP == 127.0.0.2 [engine - stack] 10.9.0.2 fd09::2
func TestTwoEnds(t *testing.T) {
	port := freePort(t)
	a, b := openEnd(t, port, 0), openEnd(t, port, 1)
	for _, addr := range []string{"10.9.0.2:80", "[fd09::2]:80"} {
		l, err := b.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			c.Close()
		}()
		c, err := a.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte("kohaku"), 200_000)
		go func() { _, _ = c.Write(want) }()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: what came back is not what went out (%v)", addr, err)
		}
		c.Close()
		l.Close()
	}
	p, err := b.ListenPacket("udp", "10.9.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	u, err := a.DialContext(t.Context(), "udp", "10.9.0.2:53")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, from, err := p.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" || from.(*net.UDPAddr).IP.String() != "10.9.0.1" {
		t.Errorf("%q from %v, %v", buf[:n], from, err)
	}
	if s := a.Stats(); s.VNI != 7 || s.Tx.Frames == 0 || s.Rx.Frames == 0 || len(s.Drops) != 0 {
		t.Errorf("stats %+v", s)
	}
	if a.Engine().Port() != port {
		t.Error("another port")
	}
}

func TestRefusals(t *testing.T) {
	port := freePort(t)
	addrs := []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}
	openEnd(t, port, 0)
	for name, c := range map[string]struct {
		Config
		want error
	}{
		"port taken":      {Config{Remote: netip.MustParseAddr("127.0.0.2"), Local: netip.MustParseAddr("127.0.0.1"), Addrs: addrs, Port: port}, syscall.EADDRINUSE},
		"not our address": {Config{Remote: netip.MustParseAddr("127.0.0.2"), Local: netip.MustParseAddr("192.0.2.9"), Addrs: addrs, Port: port}, syscall.EADDRNOTAVAIL},
		"no address":      {Config{Remote: netip.MustParseAddr("127.0.0.2"), Port: port}, nil},
		"to itself":       {Config{Remote: netip.MustParseAddr("127.0.0.3"), Local: netip.MustParseAddr("127.0.0.3"), Addrs: addrs, Port: port}, nil},
	} {
		e, err := Open(c.Config)
		if err == nil {
			e.Close()
			t.Errorf("%s: opened", name)
		}
		if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		var taken *engine.PortInUseError
		if (c.want == syscall.EADDRINUSE) != errors.As(err, &taken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
