// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"kohaku/encap"
	"kohaku/internal/endpoint"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
)

// An end inside a program, without a device, against the kernel's driver and
// against a TAP of ours:
//
//	left: this process [stack - engine] eth0 --- switch --- eth0 [ov0] right
func TestNetstack(t *testing.T) {
	for _, k := range []kind{kernel, ours} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("netstack-%s-%s", k, underlayName(v6)), func(t *testing.T) {
				u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"left", "right"}})
				left, right := u.Hosts[0], u.Hosts[1]
				ep := closeAfter(t, open(t, left.Node, func() (*endpoint.Endpoint, error) {
					return endpoint.Open(endpoint.Config{
						VNI: overlayVNI, Local: left.Addr(v6), Remote: right.Addr(v6), UDPGSO: true, UDPGRO: true,
						Addrs: []netip.Prefix{netip.PrefixFrom(overlay4[0], 24), netip.PrefixFrom(overlay6[0], 64)},
					})
				}))
				l := &link{mtu: 1500 - encap.Overhead(v6)}
				l.right = l.newEnd(t, right, left, k, v6, 1)
				for _, inner6 := range []bool{false, true} {
					n := netstackPair{ep, l.right, [2]netip.Addr{overlay4[0], overlay4[1]}, l.mtu - 28}
					if inner6 {
						n = netstackPair{ep, l.right, [2]netip.Addr{overlay6[0], overlay6[1]}, l.mtu - 48}
					}
					t.Run("inner "+underlayName(inner6), func(t *testing.T) {
						n.answersPings(t)
						n.sendsTCP(t)
						n.takesTCP(t)
						n.exchangesUDP(t)
					})
				}
				if drops := ep.Stats().Drops; len(drops) != 0 {
					t.Errorf("dropped: %v", drops)
				}
			})
		}
	}
}

// netstackPair is the stack and the kernel at the other end.
type netstackPair struct {
	*endpoint.Endpoint
	kernel *end
	addr   [2]netip.Addr // the stack's, the kernel's
	most   int           // payload of a datagram
}

func (n *netstackPair) answersPings(t *testing.T) {
	ctx := within(t, time.Minute)
	p := closeAfter(t, open(t, n.kernel.Node, func() (*traffic.Pinger, error) { return traffic.NewPinger(n.addr[1], n.addr[0]) }))
	for size := 0; size < n.most; size += 7 {
		must(p.Ping(ctx, size))(t)
	}
	must(p.Ping(ctx, n.most))(t)
}

const netstackBytes = 16 << 20

func (n *netstackPair) sendsTCP(t *testing.T) {
	sink := closeAfter(t, open(t, n.kernel.Node, func() (*traffic.TCPSink, error) {
		return traffic.ListenTCP(netip.AddrPortFrom(n.addr[1], 0))
	}))
	c := must(n.DialContext(within(t, time.Minute), "tcp", sink.Addr().String()))(t)
	defer c.Close()
	h := sha256.New()
	must(io.CopyN(io.MultiWriter(c, h), traffic.NewSource(5), netstackBytes))(t)
	check(t, c.(interface{ CloseWrite() error }).CloseWrite())
	if got := must(io.ReadAll(c))(t); !bytes.Equal(got, h.Sum(nil)) {
		t.Error("the kernel received something else")
	}
}

func (n *netstackPair) takesTCP(t *testing.T) {
	ctx := within(t, time.Minute)
	l := closeAfter(t, must(n.Listen("tcp", netip.AddrPortFrom(n.addr[0], 0).String()))(t))
	go func() {
		c, err := l.Accept()
		if err != nil {
			return // the sender reports it
		}
		defer c.Close()
		h := sha256.New()
		if _, err := io.Copy(h, c); err == nil {
			_, _ = c.Write(h.Sum(nil)) // likewise
		}
	}()
	s := open(t, n.kernel.Node, func() (*traffic.TCPStream, error) {
		return traffic.DialTCP(ctx, n.addr[1], l.Addr().(*net.TCPAddr).AddrPort())
	})
	must(s.Send(ctx, 6, netstackBytes))(t)
}

// exchangesUDP sends datagrams of many sizes from either side, which come back as
// they were.
func (n *netstackPair) exchangesUDP(t *testing.T) {
	theirs := closeAfter(t, open(t, n.kernel.Node, func() (net.PacketConn, error) {
		return new(net.ListenConfig).ListenPacket(context.Background(), "udp", netip.AddrPortFrom(n.addr[1], 0).String())
	}))
	ours := closeAfter(t, must(n.ListenPacket("udp", netip.AddrPortFrom(n.addr[0], 0).String()))(t))
	for _, c := range []struct {
		name       string
		from, echo net.PacketConn
	}{{"to the kernel", ours, theirs}, {"to the stack", theirs, ours}} {
		buf, back := make([]byte, 1<<16), make([]byte, 1<<16)
		for size := 1; size <= n.most; size += 37 {
			want := must(io.ReadAll(io.LimitReader(traffic.NewSource(uint64(size)), int64(size))))(t)
			deadline := time.Now().Add(20 * time.Second)
			check(t, errors.Join(c.from.SetDeadline(deadline), c.echo.SetDeadline(deadline)))
			must(c.from.WriteTo(want, c.echo.LocalAddr()))(t)
			k, from, err := c.echo.ReadFrom(buf)
			check(t, err)
			must(c.echo.WriteTo(buf[:k], from))(t)
			k, _, err = c.from.ReadFrom(back)
			check(t, err)
			if !bytes.Equal(back[:k], want) {
				t.Fatalf("%s, %d bytes: something else came back", c.name, size)
			}
		}
	}
}
