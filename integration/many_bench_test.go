// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kohaku/internal/lab"
)

// What 255 busy tunnels cost against one, with an engine in a process of its own at
// each end, and beside them the same with the kernel's devices:
//
//	one    one TCP stream through one tunnel
//	shared 255 streams through one tunnel
//	all    255 streams, each through a tunnel of its own
const (
	manyReferencePort = 8472 // the kernel's at both ends; 4789 is the engine's
	manyRamp          = 300 * time.Millisecond
	manyMeasured      = 500 * time.Millisecond
)

func manyReference(i int) string { return fmt.Sprintf("k%d", i) }

// manyPath is one kind of tunnel: the addresses of the ends of tunnel i.
type manyPath struct {
	name string
	net  byte // 10.net.i.1 and 10.net.i.2
}

func (p manyPath) addr(i, side int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, p.net, byte(i), byte(side)})
}

// BenchmarkManyTunnels makes a round of each case for each iteration and reports
// medians. Figures need -benchtime 7x or more.
func BenchmarkManyTunnels(b *testing.B) {
	u := newUnderlay(b, lab.UnderlayConfig{Names: []string{"left", "right"}})
	left, right := u.Hosts[0], u.Hosts[1]
	startManyTunnels(b, left, right.V4)
	startManyTunnels(b, right, left.V4)
	ours, kernel := manyPath{"kohaku", 100}, manyPath{"kernel", 101}
	for i := 1; i <= manyTunnels; i++ {
		for side, h := range []*lab.UnderlayHost{left, right} {
			peer := u.Hosts[1-side]
			check(b, h.AddKernelVXLAN(lab.KernelVXLAN{
				Name: manyReference(i), VNI: uint32(manyVNI(i)), Local: h.V4, Remote: peer.V4, Port: manyReferencePort, MTU: 1450,
			}))
			check(b, h.AddAddr(manyDevice(i), netip.PrefixFrom(ours.addr(i, side+1), 24)))
			check(b, h.AddAddr(manyReference(i), netip.PrefixFrom(kernel.addr(i, side+1), 24)))
			check(b, h.SetUp(manyDevice(i)))
			check(b, h.SetUp(manyReference(i)))
		}
	}
	one := []int{1}
	all, shared := make([]int, manyTunnels), make([]int, manyTunnels)
	for i := range all {
		all[i], shared[i] = i+1, 1
	}
	cases := []struct {
		name    string
		tunnels []int // of each stream
	}{{"one", one}, {"shared", shared}, {"all", all}}

	figures := map[string][]float64{}
	for range b.N {
		for _, c := range cases {
			for _, p := range []manyPath{ours, kernel} {
				f := manyStreams(b, left, right, p, c.tunnels)
				figures[p.name+"-"+c.name] = append(figures[p.name+"-"+c.name], f)
			}
		}
	}
	for _, p := range []manyPath{ours, kernel} {
		base := median(figures[p.name+"-one"])
		b.ReportMetric(base, p.name+"-one-Gbit/s")
		for _, c := range cases[1:] {
			b.ReportMetric(median(figures[p.name+"-"+c.name])/base, p.name+"-"+c.name+":one")
		}
	}
	b.ReportMetric(0, "ns/op") // says nothing here
}

func median(f []float64) float64 {
	slices.Sort(f)
	return f[len(f)/2]
}

// manyStreams opens a stream through each of the tunnels and returns what arrives
// altogether, in Gbit/s.
func manyStreams(b *testing.B, from, to *lab.UnderlayHost, p manyPath, tunnels []int) float64 {
	b.Helper()
	l := open(b, to.Node, func() (net.Listener, error) { return net.Listen("tcp4", ":0") })
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	var conns []net.Conn
	var got atomic.Int64
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, i := range tunnels {
		out := open(b, from.Node, func() (net.Conn, error) {
			return net.DialTimeout("tcp4", netip.AddrPortFrom(p.addr(i, 2), port).String(), 10*time.Second)
		})
		in := must(l.Accept())(b)
		conns = append(conns, out, in)
		wg.Go(func() {
			buf := make([]byte, 128<<10)
			for {
				n, err := in.Read(buf)
				got.Add(int64(n))
				if err != nil {
					return // the sender has closed
				}
			}
		})
	}
	for i := 0; i < len(conns); i += 2 {
		wg.Go(func() {
			defer conns[i].Close()
			buf := make([]byte, 128<<10)
			for !stop.Load() {
				if _, err := conns[i].Write(buf); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	time.Sleep(manyRamp)
	before, start := got.Load(), time.Now()
	time.Sleep(manyMeasured)
	rate := float64(got.Load()-before) * 8 / time.Since(start).Seconds() / 1e9
	stop.Store(true)
	wg.Wait()
	check(b, l.Close())
	for i := 1; i < len(conns); i += 2 {
		check(b, conns[i].Close())
	}
	return rate
}
