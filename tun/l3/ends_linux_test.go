// SPDX-License-Identifier: Apache-2.0

package l3_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
	"kohaku/tun"
	"kohaku/tun/l3"
)

// ends are an L3 TUN and another kind of end, joined over an underlay:
//
//	a: kernel -- tun0 (l3) -- engine == underlay == engine -- over0 (TAP) -- kernel :b
//	   10.1.0.254, fd00:1::fe           or: == over0 (kernel's VXLAN) --     10.1.0.1, fd00:1::1
type ends struct {
	a, b *lab.UnderlayHost
	dev  *l3.Device
}

const (
	vni   = 101
	other = "over0"
)

var overlay = [2][2]netip.Addr{
	{netip.MustParseAddr("10.1.0.254"), netip.MustParseAddr("fd00:1::fe")},
	{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00:1::1")},
}

// carry starts an engine on h with one tunnel to peer.
func carry(t *testing.T, h, peer *lab.UnderlayHost, dev tun.Device) {
	t.Helper()
	do(t, h.Node, func() error {
		eng, err := engine.New(engine.Config{UDPGSO: true, UDPGRO: true})
		if err != nil {
			return err
		}
		t.Cleanup(func() {
			if err := eng.Close(); err != nil {
				t.Error(err)
			}
		})
		return eng.Add(engine.Tunnel{VNI: encap.VNI(vni), Device: dev, Peer: engine.Peer{Remote: peer.V4, Local: h.V4}})
	})
}

// newOther makes b's end: a TAP with an engine, or the kernel's own VXLAN.
func newOther(t *testing.T, b, peer *lab.UnderlayHost, kernel bool) {
	t.Helper()
	if kernel {
		must(t, b.AddKernelVXLAN(lab.KernelVXLAN{Name: other, VNI: vni, Local: b.V4, Remote: peer.V4, MTU: 1450}))
	} else {
		var tap tun.Device
		do(t, b.Node, func() (err error) {
			tap, err = tun.OpenTAP(other, tun.Options{Queues: 1, MTU: 1450, TSO: true, USO: true})
			return err
		})
		carry(t, b, peer, tap)
		must(t, b.SetUp(other))
	}
	addAddrs(t, b.Node, other, overlay[1][0].String()+"/16", overlay[1][1].String()+"/64")
}

func join(t *testing.T, kernel bool) *ends {
	t.Helper()
	u := network(t, "a", "b")
	e := &ends{a: u.Hosts[0], b: u.Hosts[1]}
	do(t, e.a.Node, func() (err error) {
		e.dev, err = l3.Open("tun0", l3.Options{MTU: 1450, Addrs: overlay[0][:]})
		return err
	})
	carry(t, e.a, e.b, e.dev)
	must(t, e.a.SetUp("tun0"))
	addAddrs(t, e.a.Node, "tun0", overlay[0][0].String()+"/16", overlay[0][1].String()+"/64")
	newOther(t, e.b, e.a, kernel)
	return e
}

func (e *ends) ping(t *testing.T, from *lab.UnderlayHost, dst netip.Addr, size int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var p *traffic.Pinger
	do(t, from.Node, func() (err error) { p, err = traffic.NewPinger(netip.Addr{}, dst); return err })
	defer p.Close()
	if _, err := p.Ping(ctx, size); err != nil {
		t.Fatal(err)
	}
}

func (e *ends) tcp(t *testing.T, from, to *lab.UnderlayHost, dst netip.Addr, n int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var s *traffic.TCPSink
	do(t, to.Node, func() (err error) { s, err = traffic.ListenTCP(netip.AddrPortFrom(dst, 0)); return err })
	defer s.Close()
	var c *traffic.TCPStream
	do(t, from.Node, func() (err error) { c, err = traffic.DialTCP(ctx, netip.Addr{}, s.Addr()); return err })
	r, err := c.Send(ctx, 1, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s to %s: %.2f Gbit/s", from.Name(), to.Name(), r.BitsPerSecond()/1e9)
}

func (e *ends) udp(t *testing.T, from, to *lab.UnderlayHost, dst netip.Addr) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var s *traffic.UDPSink
	do(t, to.Node, func() (err error) { s, err = traffic.ListenUDP(netip.AddrPortFrom(dst, 0)); return err })
	defer s.Close()
	var c *traffic.UDPSender
	do(t, from.Node, func() (err error) { c, err = traffic.DialUDP(netip.Addr{}, s.Addr()); return err })
	defer c.Close()
	// The largest is sent in fragments.
	if err := c.SendAll(ctx, s, []int{64, 500, 1400, 4000}, 16, 10*time.Second); err != nil {
		t.Fatal(err)
	}
}
