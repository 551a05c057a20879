// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"kohaku/encap"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// An underlay that takes less than the overlay's devices promise. Senders are told
// and adapt, whether they are routed into the tunnel or sit behind a bridge, and
// whether their end is ours or the kernel's. The topologies are those of
// ends_test.go and bridged_test.go.
const narrowMTU = 1400

func TestSemanticsPathMTU(t *testing.T) {
	for _, c := range pairings() {
		for _, bridged := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, bridged %v", c.name(), bridged), func(t *testing.T) {
				l := newLink(t, c)
				senders := l
				if bridged {
					senders = containers(t, l)
				}
				testPingSizes(t, senders, 1000) // while all is well
				narrow(t, l.left, l.right.Addr(c.v6))
				narrow(t, l.right, l.left.Addr(c.v6))
				want := narrowMTU - encap.Overhead(c.v6)
				for _, inner6 := range []bool{false, true} {
					for _, d := range senders.directions() {
						told(t, d[0], d[1].addr(inner6), l.mtu, want)
					}
				}
				testTCP(t, senders, 2<<20)
			})
		}
	}
}

// narrow makes the route to a peer one of narrowMTU.
func narrow(t *testing.T, e *end, peer netip.Addr) {
	t.Helper()
	bits := 8 * len(peer.AsSlice())
	check(t, e.Handle().RouteAdd(&netlink.Route{
		LinkIndex: must(e.Port.Link())(t).Attrs().Index, MTU: narrowMTU, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: peer.AsSlice(), Mask: net.CIDRMask(bits, bits)},
	}))
}

// told expects that a sender of packets as large as its device takes is told that
// the path takes only want bytes, and that those arrive.
func told(t *testing.T, from *end, to netip.Addr, mtu, want int) {
	t.Helper()
	headers := 28
	if to.Is6() {
		headers = 48
	}
	p := closeAfter(t, open(t, from.Node, func() (*traffic.Pinger, error) { return traffic.NewPinger(netip.Addr{}, to) }))
	ping := func(size int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
		defer cancel()
		_, err := p.Ping(ctx, size)
		return err
	}
	eventually(t, 20*time.Second, "the sender is told", func() error {
		if err := ping(mtu - headers); !errors.Is(err, unix.EMSGSIZE) {
			return fmt.Errorf("%s: a ping of %d bytes to %s: %v", from.Name(), mtu, to, err)
		}
		return nil
	})
	eventually(t, 20*time.Second, "what fits arrives", func() error { return ping(want - headers) })
	if err := ping(want - headers + 1); !errors.Is(err, unix.EMSGSIZE) {
		t.Errorf("%s: a ping of %d bytes to %s: %v, want EMSGSIZE", from.Name(), want+1, to, err)
	}
	if got := pathMTUTo(t, from.Node, to); got != want {
		t.Errorf("%s: the path to %s is known as %d, want %d", from.Name(), to, got, want)
	}
}

// pathMTUTo is what a connected socket knows of the path.
func pathMTUTo(t *testing.T, n *lab.Node, to netip.Addr) (mtu int) {
	t.Helper()
	check(t, n.Do(func() error {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		cerr := raw.Control(func(fd uintptr) {
			if to.Is4() {
				mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
			} else {
				mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
			}
		})
		return errors.Join(err, cerr)
	}))
	return mtu
}

// A router on the underlay with a narrow link behind it, which tells so by ICMPv6:
//
//	left eth0 fd01::1 ---1500--- in [router] out ---1400--- eth0 fd02::1 right
//
// Left is ours or the kernel's. Over IPv4 the router would fragment.
func TestSemanticsPathMTULearned(t *testing.T) {
	for _, k := range []kind{ours, kernel} {
		t.Run(string(k), func(t *testing.T) {
			n := must(lab.NewNet())(t)
			t.Cleanup(func() {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			})
			left, router, right := must(n.Node("left"))(t), must(n.Node("router"))(t), must(n.Node("right"))(t)
			for _, c := range []struct {
				n        *lab.Node
				addr     string
				mtu      int
				at, gate string
			}{{left, "fd01::1", 1500, "in", "fd01::ff"}, {right, "fd02::1", narrowMTU, "out", "fd02::ff"}} {
				_, _, err := lab.Connect(c.n, "eth0", router, c.at, c.mtu)
				check(t, err)
				check(t, c.n.AddAddr("eth0", netip.MustParsePrefix(c.addr+"/64")))
				check(t, router.AddAddr(c.at, netip.MustParsePrefix(c.gate+"/64")))
				check(t, c.n.WaitUp(within(t, 20*time.Second), "eth0"))
				check(t, c.n.AddRoute(netip.MustParsePrefix("fd00::/8"), netip.MustParseAddr(c.gate)))
			}
			check(t, router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
			hosts := [2]*lab.UnderlayHost{
				{Node: left, V6: netip.MustParseAddr("fd01::1")}, {Node: right, V6: netip.MustParseAddr("fd02::1")},
			}
			l := &link{mtu: 1500 - encap.Overhead6}
			l.left = l.newEnd(t, hosts[0], hosts[1], k, true, 0)
			l.right = l.newEnd(t, hosts[1], hosts[0], ours, true, 1)
			for _, inner6 := range []bool{false, true} {
				told(t, l.left, l.right.addr(inner6), l.mtu, narrowMTU-encap.Overhead6)
			}
			testTCP(t, l, 2<<20)
		})
	}
}
