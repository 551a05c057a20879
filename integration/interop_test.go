// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The topology is that of ends_test.go, with the kernel's VXLAN driver at one
// end and us at the other:
//
//	left [ov0 ours] eth0 ----- switch ----- eth0 [ov0 kernel] right
//	left [ov0 kernel] eth0 --- switch --- eth0 [ov0 ours] right

// streamBytes is the size of each bulk stream. Pairings (2 roles, 2 underlay
// families), directions and inner families make 16 of them: 1.25 GiB.
const streamBytes = 80 << 20

func TestInterop(t *testing.T) {
	for _, c := range pairings() {
		t.Run(c.name(), func(t *testing.T) {
			l := newLink(t, c)
			t.Run("address resolution", func(t *testing.T) { testResolution(t, l) })
			t.Run("ping of every size", func(t *testing.T) { testPingSizes(t, l, 1) })
			t.Run("TCP", func(t *testing.T) { testTCP(t, l, streamBytes) })
			t.Run("UDP", func(t *testing.T) { testUDP(t, l, 1) })
			t.Run("VLAN", func(t *testing.T) { testVLAN(t, l) })
			l.noDrops(t)
		})
	}
}

// Between 9000-byte interfaces the overlay takes 8950 bytes, 8930 over IPv6.
func TestInteropJumbo(t *testing.T) {
	for _, c := range pairings() {
		c.mtu = 9000
		t.Run(c.name(), func(t *testing.T) {
			l := newLink(t, c)
			testPingSizes(t, l, 53)
			testTCP(t, l, 24<<20)
			testUDP(t, l, 61)
			l.noDrops(t)
		})
	}
}

// Where every packet crosses on its own, as between machines with plain NICs,
// merging and cutting are all ours.
func TestInteropWire(t *testing.T) {
	for _, c := range pairings() {
		c.profile = lab.Wire
		t.Run(c.name(), func(t *testing.T) {
			l := newLink(t, c)
			testPingSizes(t, l, 53)
			testTCP(t, l, 24<<20)
			testUDP(t, l, 61)
			l.noDrops(t)
		})
	}
}

// A kernel peer behind a device that offloads checksums hands over inner frames
// with unfinished ones; a device of ours that does not offload them refuses, on
// some kernels, to cut for us. All four combinations carry everything.
func TestInteropTransmitChecksum(t *testing.T) {
	for _, c := range pairings() {
		for _, noTX := range [][2]bool{{false, false}, {true, false}, {false, true}, {true, true}} {
			c.noTX = noTX
			t.Run(fmt.Sprintf("%s tx off left %v right %v", c.name(), noTX[0], noTX[1]), func(t *testing.T) {
				l := newLink(t, c)
				testPingSizes(t, l, 211)
				testTCP(t, l, 8<<20)
				testUDP(t, l, 61)
				l.noDrops(t)
				kernelOffloads := c.left == kernel && !noTX[0] || c.right == kernel && !noTX[1]
				for _, e := range []*end{l.left, l.right} {
					if e.kind == kernel {
						continue
					}
					n := e.engine.Tunnels()[0].Rx.PartialChecksums
					if (n > 0) != kernelOffloads {
						t.Errorf("%d unfinished checksums received; the kernel's device offloads them: %v", n, kernelOffloads)
					}
				}
			})
		}
	}
}

// testResolution looks at ARP and neighbour discovery, before anything else has
// filled the caches.
func testResolution(t *testing.T, l *link) {
	ctx := within(t, time.Minute)
	for _, v6 := range []bool{false, true} {
		for _, d := range l.directions() {
			from, to := d[0], d[1]
			dev := must(from.dev.Link())(t)
			flushNeighbours(t, from, v6)
			p := closeAfter(t, open(t, from.Node, func() (*traffic.Pinger, error) {
				return traffic.NewPinger(from.addr(v6), to.addr(v6))
			}))
			must(p.Ping(ctx, 0))(t)
			want := must(to.dev.HardwareAddr())(t)
			family := netlink.FAMILY_V4
			if v6 {
				family = netlink.FAMILY_V6
			}
			found := ""
			for _, n := range must(from.Handle().NeighList(dev.Attrs().Index, family))(t) {
				if n.IP.Equal(to.addr(v6).AsSlice()) {
					found = n.HardwareAddr.String()
				}
			}
			if found != want.String() {
				t.Errorf("%s takes %s for the MAC of %s, it is %s", from.Name(), found, to.addr(v6), want)
			}
		}
	}
}

func flushNeighbours(t *testing.T, e *end, v6 bool) {
	t.Helper()
	family := netlink.FAMILY_V4
	if v6 {
		family = netlink.FAMILY_V6
	}
	dev := must(e.dev.Link())(t)
	for _, n := range must(e.Handle().NeighList(dev.Attrs().Index, family))(t) {
		if n.State != netlink.NUD_NOARP {
			check(t, e.Handle().NeighDel(&n))
		}
	}
}

// testPingSizes pings with payloads of every step-th size from 0 to the largest
// that fits, that one included, and one byte more, which the sender refuses.
func testPingSizes(t *testing.T, l *link, step int) {
	ctx := within(t, time.Minute)
	for _, v6 := range []bool{false, true} {
		largest := l.mtu - 28
		if v6 {
			largest = l.mtu - 48
		}
		for _, d := range l.directions() {
			from, to := d[0], d[1]
			p := closeAfter(t, open(t, from.Node, func() (*traffic.Pinger, error) {
				return traffic.NewPinger(from.addr(v6), to.addr(v6))
			}))
			for size := 0; size < largest; size += step {
				must(p.Ping(ctx, size))(t)
			}
			must(p.Ping(ctx, largest))(t)
			if _, err := p.Ping(ctx, largest+1); !errors.Is(err, unix.EMSGSIZE) {
				t.Errorf("%d bytes, one past the MTU: %v, want EMSGSIZE", largest+1, err)
			}
		}
	}
}

// testTCP sends bulk streams, both ways at once, over inner IPv4 and then IPv6.
func testTCP(t *testing.T, l *link, bytes int64) {
	for _, v6 := range []bool{false, true} {
		var ends [2][2]node
		for i, d := range l.directions() {
			ends[i] = [2]node{{d[0].Node, d[0].addr(v6)}, {d[1].Node, d[1].addr(v6)}}
		}
		bulk(t, ends[:], bytes)
	}
}

// node is a machine and the address by which a test speaks to it.
type node struct {
	*lab.Node
	addr netip.Addr
}

// bulk sends one stream between each pair of nodes, all at the same time, and
// compares the content that arrives.
func bulk(t *testing.T, pairs [][2]node, bytes int64) {
	t.Helper()
	for i, r := range quietBulk(t, pairs, bytes) {
		t.Logf("%s to %s: %d MiB, %.2f Gbit/s, content the same", pairs[i][0].addr, pairs[i][1].addr, r.Bytes>>20, r.BitsPerSecond()/1e9)
	}
}

// quietBulk is bulk without a line for each stream.
func quietBulk(t *testing.T, pairs [][2]node, bytes int64) []traffic.TCPResult {
	t.Helper()
	results := make([]traffic.TCPResult, len(pairs))
	ctx := within(t, time.Minute)
	var wg sync.WaitGroup
	for i, p := range pairs {
		sink := closeAfter(t, open(t, p[1].Node, func() (*traffic.TCPSink, error) {
			return traffic.ListenTCP(netip.AddrPortFrom(p[1].addr, 0))
		}))
		s := open(t, p[0].Node, func() (*traffic.TCPStream, error) {
			return traffic.DialTCP(ctx, p[0].addr, sink.Addr())
		})
		wg.Go(func() {
			r, err := s.Send(ctx, uint64(i)+1, bytes)
			if err != nil {
				t.Errorf("%s to %s: %v", p[0].Name(), p[1].Name(), err)
				return
			}
			results[i] = r
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return results
}

// testUDP sends datagrams of every step-th size, one by one and as super-frames
// (which a TAP passes on as such), and expects each exactly once, unchanged.
func testUDP(t *testing.T, l *link, step int) {
	ctx := within(t, time.Minute)
	for _, v6 := range []bool{false, true} {
		largest := l.mtu - 28
		if v6 {
			largest = l.mtu - 48
		}
		var sizes []int
		for size := traffic.MinUDP; size <= largest; size += step {
			sizes = append(sizes, size)
		}
		sizes = append(sizes, largest, largest)
		for _, d := range l.directions() {
			from, to := d[0], d[1]
			sink := closeAfter(t, open(t, to.Node, func() (*traffic.UDPSink, error) {
				return traffic.ListenUDP(netip.AddrPortFrom(to.addr(v6), l.udpPort))
			}))
			s := closeAfter(t, open(t, from.Node, func() (*traffic.UDPSender, error) {
				return traffic.DialUDP(from.addr(v6), sink.Addr())
			}))
			check(t, s.SendAll(ctx, sink, sizes, 32, 5*time.Second))
			for _, train := range []struct{ size, count int }{{100, 60}, {largest, min(40, 60000/largest)}, {999, 20}} {
				check(t, s.SendTrain(train.size, train.count))
				check(t, waitFor(ctx, sink, s.Sent()))
			}
			got := sink.Stats()
			if got.Received != s.Sent() || got.Corrupt != 0 || got.Duplicated != 0 {
				t.Errorf("%s to %s: sent %d, arrived %+v", from.Name(), to.Name(), s.Sent(), got)
			}
		}
	}
}

func waitFor(ctx context.Context, sink *traffic.UDPSink, n uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return sink.Wait(ctx, n)
}

// testVLAN puts an 802.1Q interface on either overlay device:
//
//	left v7 10.7.0.1 -- ov0 ==== VLAN 7 in VNI 4242 ==== ov0 -- v7 10.7.0.2 right
func testVLAN(t *testing.T, l *link) {
	ctx := within(t, time.Minute)
	v4 := [2]netip.Addr{netip.MustParseAddr("10.7.0.1"), netip.MustParseAddr("10.7.0.2")}
	v6 := [2]netip.Addr{netip.MustParseAddr("fd70::1"), netip.MustParseAddr("fd70::2")}
	for i, e := range []*end{l.left, l.right} {
		// The tag takes 4 of the bytes that the underlay has room for.
		check(t, e.SetMTU(overlayDevice, l.mtu-4))
		closeAfter(t, must(e.AddVLAN(overlayDevice, "v7", 7))(t))
		check(t, e.AddAddr("v7", netip.PrefixFrom(v4[i], 24)))
		check(t, e.AddAddr("v7", netip.PrefixFrom(v6[i], 64)))
	}
	for _, a := range [][2]netip.Addr{v4, v6} {
		p := closeAfter(t, open(t, l.left.Node, func() (*traffic.Pinger, error) { return traffic.NewPinger(a[0], a[1]) }))
		for _, size := range []int{0, 1, 1000, l.mtu - 4 - 48} {
			must(p.Ping(ctx, size))(t)
		}
		bulk(t, [][2]node{
			{{l.left.Node, a[0]}, {l.right.Node, a[1]}},
			{{l.right.Node, a[1]}, {l.left.Node, a[0]}},
		}, 4<<20)
	}
}
