// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/lab"
	"kohaku/tun"
	"kohaku/tun/l3"
)

// Two machines with one overlay device each. Either device is ours or the
// kernel's:
//
//	left                                                 right
//	+--------------------+                +--------------------+
//	| ov0  10.77.0.1/24  |   VNI 4242     | ov0  10.77.0.2/24  |
//	|      fd77::1/64    |                |      fd77::2/64    |
//	| eth0 192.0.2.1     |                | eth0 192.0.2.2     |
//	+----------+---------+                +----------+---------+
//	           +------------ switch -----------------+
const (
	overlayDevice = "ov0"
	overlayVNI    = 4242
)

var (
	overlay4 = [2]netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2")}
	overlay6 = [2]netip.Addr{netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2")}
)

// kind says who makes an overlay device.
type kind string

const (
	ours    kind = "ours"
	oursTUN kind = "tun" // ours, on an L3 TUN
	kernel  kind = "kernel"
)

// end is one end of an overlay link.
type end struct {
	*lab.UnderlayHost
	kind   kind
	engine *engine.Engine // nil when the kernel's
	v4, v6 netip.Addr     // on the overlay
	dev    lab.Port
}

// addr is the end's overlay address.
func (e *end) addr(v6 bool) netip.Addr {
	if v6 {
		return e.v6
	}
	return e.v4
}

// link is both ends of an overlay link.
type link struct {
	left, right *end
	mtu         int    // of the overlay devices
	udpPort     uint16 // where UDP sinks listen; 0 lets the kernel choose
}

// linkConfig says which link to build. The zero value is MTU 1500, veth's own
// offloads, IPv4 underlay, ours on both sides.
type linkConfig struct {
	left, right kind
	v6          bool // underlay
	mtu         int  // underlay
	profile     lab.Profile
	noTX        [2]bool       // transmit checksum offload off at eth0, left and right
	off         conf.Offloads // offloads that ours does without
}

func (c linkConfig) name() string {
	family := "IPv4"
	if c.v6 {
		family = "IPv6"
	}
	return fmt.Sprintf("%s-%s-%s", c.left, c.right, family)
}

// pairings are the ways to put us beside the kernel.
func pairings(also ...linkConfig) []linkConfig {
	var all []linkConfig
	for _, v6 := range []bool{false, true} {
		all = append(all,
			linkConfig{left: ours, right: kernel, v6: v6},
			linkConfig{left: kernel, right: ours, v6: v6})
	}
	return append(all, also...)
}

// newLink builds the machines, the underlay and the overlay link between them.
func newLink(t *testing.T, c linkConfig) *link {
	t.Helper()
	if c.left == "" {
		c.left = ours
	}
	if c.right == "" {
		c.right = ours
	}
	if c.mtu == 0 {
		c.mtu = 1500
	}
	u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"left", "right"}, MTU: c.mtu, Profile: c.profile})
	for i, off := range c.noTX {
		if off {
			check(t, u.Hosts[i].Port.SetFeatures(map[lab.Feature]bool{lab.FeatureTX: false}))
		}
	}
	l := &link{mtu: c.mtu - encap.Overhead(c.v6)}
	l.left = l.newEndWithout(t, u.Hosts[0], u.Hosts[1], c.left, c.v6, 0, c.off)
	l.right = l.newEndWithout(t, u.Hosts[1], u.Hosts[0], c.right, c.v6, 1, c.off)
	return l
}

func (l *link) newEnd(t *testing.T, host, peer *lab.UnderlayHost, k kind, v6 bool, i int) *end {
	t.Helper()
	return l.newEndWithout(t, host, peer, k, v6, i, conf.Offloads{})
}

// newEndWithout is newEnd without some offloads.
func (l *link) newEndWithout(t *testing.T, host, peer *lab.UnderlayHost, k kind, v6 bool, i int, off conf.Offloads) *end {
	t.Helper()
	e := &end{UnderlayHost: host, kind: k, v4: overlay4[i], v6: overlay6[i], dev: lab.Port{Node: host.Node, Name: overlayDevice}}
	switch k {
	case ours, oursTUN:
		e.engine = newEngine(t, host.Node, engine.Config{UDPGSO: !off.UDPGSO, UDPGRO: !off.UDPGRO})
		tunnel := engine.Tunnel{VNI: overlayVNI, Peer: engine.Peer{Remote: peer.Addr(v6), Local: host.Addr(v6)}}
		check(t, host.Do(func() (err error) {
			if k == ours {
				tunnel.Device, err = tun.OpenTAP(overlayDevice, tun.Options{MTU: l.mtu, TSO: !off.TSO, USO: !off.USO})
			} else {
				tunnel.Device, err = l3.Open(overlayDevice, l3.Options{MTU: l.mtu, Addrs: []netip.Addr{e.v4, e.v6}, NoOffloads: off.TSO || off.USO})
			}
			if err != nil {
				return err
			}
			if err := e.engine.Add(tunnel); err != nil {
				return errors.Join(err, tunnel.Device.Close())
			}
			return nil
		}))
		check(t, host.SetUp(overlayDevice))
	case kernel:
		check(t, host.AddKernelVXLAN(lab.KernelVXLAN{
			Name: overlayDevice, VNI: overlayVNI, Local: host.Addr(v6), Remote: peer.Addr(v6), MTU: l.mtu,
		}))
	}
	check(t, host.AddAddr(overlayDevice, netip.PrefixFrom(e.v4, 24)))
	check(t, host.AddAddr(overlayDevice, netip.PrefixFrom(e.v6, 64)))
	return e
}

// newEngine makes an engine in a node, closed when the test ends.
func newEngine(t *testing.T, n *lab.Node, c engine.Config) *engine.Engine {
	t.Helper()
	return closeAfter(t, open(t, n, func() (*engine.Engine, error) { return engine.New(c) }))
}

// addTunnel opens a TAP in a node and gives it to the engine.
func addTunnel(t *testing.T, n *lab.Node, e *engine.Engine, device string, mtu int, tunnel engine.Tunnel) {
	t.Helper()
	check(t, n.Do(func() error { return openTunnel(e, device, mtu, tunnel) }))
}

// openTunnel opens a TAP in the namespace of the calling thread and gives it to
// the engine.
func openTunnel(e *engine.Engine, device string, mtu int, tunnel engine.Tunnel) error {
	d, err := tun.OpenTAP(device, tun.Options{MTU: mtu, TSO: true, USO: true})
	if err != nil {
		return err
	}
	tunnel.Device = d
	if err := e.Add(tunnel); err != nil {
		return errors.Join(err, d.Close())
	}
	return nil
}

// directions are the two ways along a link.
func (l *link) directions() [2][2]*end {
	return [2][2]*end{{l.left, l.right}, {l.right, l.left}}
}

// noDrops fails the test if one of our engines dropped anything other than what
// is named. A device that comes up speaks before its other end exists, or is up,
// so frames for a VNI not there yet and a device not up yet are not counted.
func (l *link) noDrops(t *testing.T, but ...engine.Drop) {
	t.Helper()
	for _, e := range []*end{l.left, l.right} {
		if e.engine == nil {
			continue
		}
		drops := e.engine.Stats().Drops
		for _, s := range e.engine.Tunnels() {
			for name, n := range s.Drops {
				drops[name] += n
			}
		}
		delete(drops, engine.DropUnknownVNI.String())
		delete(drops, engine.DropDeviceDown.String())
		for _, d := range but {
			delete(drops, d.String())
		}
		if len(drops) != 0 {
			t.Errorf("%s dropped %v", e.Name(), drops)
		}
	}
}
