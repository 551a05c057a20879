// SPDX-License-Identifier: Apache-2.0

package l3_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/encap"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
	"kohaku/tun"
	"kohaku/tun/l3"
	"kohaku/tun/netstack"
)

// network is a lab with an underlay of machines.
func network(t *testing.T, names ...string) *lab.Underlay {
	t.Helper()
	n, err := lab.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	u, err := n.Underlay(t.Context(), lab.UnderlayConfig{Names: names})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func do(t *testing.T, n *lab.Node, fn func() error) {
	t.Helper()
	if err := n.Do(fn); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// addAddrs gives a device addresses that are of use at once (no duplicate
// address detection).
func addAddrs(t *testing.T, n *lab.Node, device string, prefixes ...string) {
	t.Helper()
	for _, p := range prefixes {
		must(t, n.AddAddr(device, netip.MustParsePrefix(p)))
	}
}

// What Open refuses, it says, and it leaves no descriptor behind.
func TestOpenErrors(t *testing.T) {
	u := network(t, "a")
	do(t, u.Hosts[0].Node, func() error {
		fds := func() int { l, _ := os.ReadDir("/proc/self/fd"); return len(l) }
		d, err := l3.Open("tun0", l3.Options{})
		must(t, err)
		defer d.Close()
		tap, err := tun.OpenTAP("tap0", tun.Options{Queues: 1})
		must(t, err)
		defer tap.Close()
		before := fds()
		for range 3 {
			if _, err := l3.Open("tun0", l3.Options{}); !errors.Is(err, tun.ErrInUse) || !strings.Contains(err.Error(), "tun0") {
				t.Errorf("opening it twice: %v", err)
			}
			if _, err := l3.Open("tap0", l3.Options{}); !errors.Is(err, unix.EINVAL) && !errors.Is(err, tun.ErrInUse) {
				t.Errorf("opening a TAP: %v", err)
			}
			for _, name := range []string{"", "sixteen-bytes-xx"} {
				if _, err := l3.Open(name, l3.Options{}); err == nil {
					t.Errorf("name %q was taken", name)
				}
			}
			if _, err := l3.Open("tun1", l3.Options{MTU: 10}); err == nil {
				t.Error("MTU 10 was taken")
			}
		}
		if after := fds(); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		return nil
	})
}

// A device that somebody deletes is gone; one that is closed is closed. Both
// wake who waits.
func TestKernelDeviceEnds(t *testing.T) {
	u := network(t, "a")
	a := u.Hosts[0]
	for _, deleted := range []bool{true, false} {
		var d *l3.Device
		do(t, a.Node, func() (err error) {
			d, err = l3.Open("tun0", l3.Options{})
			return err
		})
		c := make(chan error)
		go func() {
			arena, frames := make([]byte, tun.MinArena), make([]tun.Frame, 4)
			for q := d.Queues()[0]; ; {
				err := q.Wait()
				if err == nil {
					_, err = q.Read(arena, frames)
				}
				if err != nil {
					c <- err
					return
				}
			}
		}()
		want := net.ErrClosed
		if deleted {
			want = tun.ErrGone
			must(t, a.Delete("tun0"))
		} else {
			must(t, d.Close())
		}
		if err := <-c; !errors.Is(err, want) {
			t.Errorf("deleted %v: %v", deleted, err)
		}
		_, err := d.Queues()[0].Write([]encap.Run{{Parts: [][]byte{frameTo(d.HardwareAddr())}}})
		if !errors.Is(err, want) {
			t.Errorf("deleted %v: writing: %v", deleted, err)
		}
		must(t, d.Close())
		must(t, d.Close())
	}
}

// frameTo is a small IPv4 frame.
func frameTo(mac [6]byte) []byte {
	f := append(mac[:], 2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 10, 1, 0, 1, 10, 1, 0, 254)
	sum := ^encap.Checksum(f[14:34], 0)
	f[24], f[25] = byte(sum>>8), byte(sum)
	return f
}

// Ping, TCP and UDP, in both directions and families, with contents compared.
func TestEndToEnd(t *testing.T) {
	for _, kernel := range []bool{false, true} {
		t.Run(map[bool]string{false: "TAP", true: "kernel VXLAN"}[kernel], func(t *testing.T) { endToEnd(t, kernel) })
	}
}

func endToEnd(t *testing.T, kernel bool) {
	e := join(t, kernel)
	for f, family := range []string{"IPv4", "IPv6"} {
		headers := 28 + 20*f
		// Who asks first teaches the other, so each end does once.
		for _, size := range []int{56, 1450 - headers} {
			e.ping(t, [...]*lab.UnderlayHost{e.a, e.b}[f], overlay[1-f][f], size)
			e.ping(t, [...]*lab.UnderlayHost{e.b, e.a}[f], overlay[f][f], size)
		}
		t.Run(family, func(t *testing.T) {
			e.tcp(t, e.a, e.b, overlay[1][f], 64<<20)
			e.tcp(t, e.b, e.a, overlay[0][f], 64<<20)
			e.udp(t, e.a, e.b, overlay[1][f])
			e.udp(t, e.b, e.a, overlay[0][f])
		})
	}
	s := e.dev.Stats()
	if s.Waiting != 0 || s.Requests == 0 || s.Replies == 0 || s.Drops["unresolved"]+s.Drops["write_failed"]+s.Drops["read_failed"] != 0 {
		t.Errorf("%+v", s)
	}
}

// A peer that comes back as another machine with the same address is found
// again, and nobody answers for an address that is not there.
func TestNeighbourChangesAndIsMissing(t *testing.T) {
	e := join(t, false)
	e.ping(t, e.a, overlay[1][0], 56)
	do(t, e.b.Node, func() error {
		mac := make([]byte, 6)
		_, _ = rand.Read(mac) // never fails
		mac[0] = 2
		l, err := e.b.Handle().LinkByName(other)
		if err != nil {
			return err
		}
		return errors.Join(e.b.Handle().LinkSetDown(l), e.b.Handle().LinkSetHardwareAddr(l, mac), e.b.Handle().LinkSetUp(l))
	})
	addAddrs(t, e.b.Node, other, overlay[1][1].String()+"/64") // IPv6 addresses go with the link
	e.ping(t, e.b, overlay[0][0], 56)                          // its request tells of the change
	e.ping(t, e.a, overlay[1][0], 56)

	do(t, e.a.Node, func() error {
		for _, dst := range []string{"10.1.0.77:80", "[fd00:1::77]:80"} {
			c, err := net.DialTimeout("tcp", dst, 30*time.Second)
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("dialling %s: %v, want EHOSTUNREACH", dst, err)
			}
		}
		return nil
	})
}

// The stack inside the program against a kernel at the other end.
func TestNetstackWithKernel(t *testing.T) {
	for _, kernel := range []bool{false, true} {
		t.Run(map[bool]string{false: "TAP", true: "kernel VXLAN"}[kernel], func(t *testing.T) {
			u := network(t, "a", "b")
			a, b := u.Hosts[0], u.Hosts[1]
			ns, err := netstack.New(netstack.Options{
				Addrs: []netip.Prefix{netip.PrefixFrom(overlay[0][0], 16), netip.PrefixFrom(overlay[0][1], 64)},
			})
			must(t, err)
			carry(t, a, b, ns)
			newOther(t, b, a, kernel)
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			for f := range 2 {
				// To the kernel: the sink answers with the hash of what came.
				var s *traffic.TCPSink
				do(t, b.Node, func() (err error) { s, err = traffic.ListenTCP(netip.AddrPortFrom(overlay[1][f], 0)); return err })
				c, err := ns.DialContext(ctx, "tcp", s.Addr().String())
				must(t, err)
				h := sha256.New()
				_, err = io.CopyN(io.MultiWriter(c, h), traffic.NewSource(5), 16<<20)
				must(t, err)
				must(t, c.(interface{ CloseWrite() error }).CloseWrite())
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, h.Sum(nil)) {
					t.Errorf("the kernel received something else: %x, %v", got, err)
				}
				must(t, c.Close())
				must(t, s.Close())

				// From the kernel.
				l, err := ns.Listen("tcp", netip.AddrPortFrom(overlay[0][f], 0).String())
				must(t, err)
				go func() {
					c, err := l.Accept()
					if err != nil {
						return // the stream's sender reports it
					}
					defer c.Close()
					h := sha256.New()
					if _, err := io.Copy(h, c); err == nil {
						_, _ = c.Write(h.Sum(nil)) // likewise
					}
				}()
				var k *traffic.TCPStream
				do(t, b.Node, func() (err error) {
					k, err = traffic.DialTCP(ctx, netip.Addr{}, l.Addr().(*net.TCPAddr).AddrPort())
					return err
				})
				if _, err := k.Send(ctx, 6, 16<<20); err != nil {
					t.Error(err)
				}
				must(t, l.Close())
			}
		})
	}
}

// Segments so small that a super-frame has more of them than a batch has room for.
func TestManySegments(t *testing.T) {
	e := join(t, false)
	var s *traffic.TCPSink
	do(t, e.b.Node, func() (err error) {
		s, err = traffic.ListenTCP(netip.AddrPortFrom(overlay[1][0], 0))
		return err
	})
	defer s.Close()
	small := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 150) })
		return errors.Join(err, cerr)
	}}
	var c net.Conn
	do(t, e.a.Node, func() (err error) { c, err = small.Dial("tcp", s.Addr().String()); return err })
	defer c.Close()
	h := sha256.New()
	_, err := io.CopyN(io.MultiWriter(c, h), traffic.NewSource(3), 8<<20)
	must(t, err)
	must(t, c.(*net.TCPConn).CloseWrite())
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, h.Sum(nil)) {
		t.Errorf("something else arrived: %x, %v", got, err)
	}
	if n := e.dev.Stats().Drops["read_failed"]; n != 0 {
		t.Errorf("%d super-frames lost their end", n)
	}
}

// A persistent interface outlives its owner and is taken over, with and without
// offloads, whatever the owner before left set.
func TestPersist(t *testing.T) {
	u := network(t, "a")
	do(t, u.Hosts[0].Node, func() error {
		exists := func() bool { _, err := net.InterfaceByName("tun0"); return err == nil }
		for i, o := range []l3.Options{{Persist: true}, {Persist: true, NoOffloads: true}, {Persist: true}, {}} {
			d, err := l3.Open("tun0", o)
			if err != nil {
				t.Fatalf("open %d: %v", i, err)
			}
			must(t, d.Close())
			if exists() != o.Persist {
				t.Errorf("open %d: the interface exists after Close: %v", i, exists())
			}
		}
		return nil
	})
}
