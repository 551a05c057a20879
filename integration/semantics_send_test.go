// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"kohaku/encap"
	"kohaku/engine"

	"github.com/vishvananda/netlink"
)

// What leaves: the outer headers and the choice of the destination, the kernel's
// driver and us beside each other (see rig).

// from makes a frame one of an end's own device.
func from(e *rigEnd, f []byte) []byte {
	copy(f[6:], e.mac)
	return f
}

func TestSemanticsOuterHeader(t *testing.T) {
	type header struct{ ttl, tos uint8 }
	for name, c := range map[string]struct {
		outer        engine.Outer
		kernel       func(*netlink.Vxlan)
		inner        uint8 // TOS
		ours, theirs header
	}{
		"default":            {inner: 0, ours: header{64, 0}, theirs: header{64, 0}},
		"DSCP is not copied": {inner: 0xb8, ours: header{64, 0}, theirs: header{64, 0}},
		"ECT(1) is copied":   {inner: 1, ours: header{64, 1}, theirs: header{64, 1}},
		"ECT(0) is copied":   {inner: 2, ours: header{64, 2}, theirs: header{64, 2}},
		"CE: the kernel says ECT(0), we copy (RFC 6040, normal mode)": {inner: 3, ours: header{64, 3}, theirs: header{64, 2}},
		"TTL option": {
			outer: engine.Outer{TTL: 9}, kernel: func(v *netlink.Vxlan) { v.TTL = 9 },
			ours: header{9, 0}, theirs: header{9, 0},
		},
		"TOS option": {
			outer: engine.Outer{TOS: 0x28}, kernel: func(v *netlink.Vxlan) { v.TOS = 0x28 },
			inner: 0xb8 | 2, ours: header{64, 0x2a}, theirs: header{64, 0x2a},
		},
		"TOS inherited": {
			outer: engine.Outer{InheritTOS: true}, kernel: func(v *netlink.Vxlan) { v.TOS = 1 }, // 1 means inherit
			inner: 0xb8 | 2, ours: header{64, 0xba}, theirs: header{64, 0xba},
		},
	} {
		for _, v6 := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6 %v", name, v6), func(t *testing.T) {
				r := newRig(t, rigConfig{v6: v6, outer: c.outer, kernel: c.kernel})
				for i, want := range [2]header{c.ours, c.theirs} {
					e := r.ends()[i]
					for _, f := range [][]byte{innerUDP(proberMAC, c.inner, 1, 30), innerUDP6(proberMAC, c.inner, 30)} {
						o := r.sent(e, from(e, f))[0]
						if got := (header{o.ttl, o.tos}); got != want {
							t.Errorf("%s: TTL %d TOS %#x, want %d and %#x", e.Name(), got.ttl, got.tos, want.ttl, want.tos)
						}
						if o.df || o.checksum == 0 || o.dst != r.prober.Addr(v6) {
							t.Errorf("%s: DF %v, checksum %#x, to %s", e.Name(), o.df, o.checksum, o.dst)
						}
						if want := vxlanDatagram(overlayVNI, f); !bytes.Equal(o.data, want) {
							t.Errorf("%s: sent %x, want %x", e.Name(), o.data, want)
						}
					}
				}
			})
		}
	}
}

// With df = "set" the outer header forbids fragments, which IPv6 always does.
func TestSemanticsDF(t *testing.T) {
	r := newRig(t, rigConfig{outer: engine.Outer{DF: true}})
	if o := r.sent(r.ours, from(r.ours, innerUDP(proberMAC, 0, 1, 30)))[0]; !o.df {
		t.Error("DF is not set")
	}
}

// Everything goes to the one remote, whatever its destination, tags included.
func TestSemanticsDestination(t *testing.T) {
	r := newRig(t, rigConfig{})
	for _, e := range r.ends() {
		for name, f := range map[string][]byte{
			"unknown unicast": innerUDP(net.HardwareAddr{2, 7, 7, 7, 7, 7}, 0, 1, 30),
			"broadcast":       innerUDP(net.HardwareAddr{255, 255, 255, 255, 255, 255}, 0, 1, 30),
			"multicast":       innerUDP(net.HardwareAddr{1, 0, 0x5e, 1, 2, 3}, 0, 1, 30),
			"VLAN":            tagged(innerUDP(proberMAC, 0, 1, 30), 0x8100, 7),
			"QinQ":            tagged(innerUDP(proberMAC, 0, 1, 30), 0x88a8, 100, 0x8100, 7),
			"not IP":          append(ethernet(proberMAC, 0x88cc), make([]byte, 46)...),
		} {
			f = from(e, f)
			o := r.sent(e, f)[0]
			if want := vxlanDatagram(overlayVNI, f); o.dst != r.prober.V4 || !bytes.Equal(o.data, want) {
				t.Errorf("%s, %s: to %s %x, want %x", e.Name(), name, o.dst, o.data, want)
			}
		}
	}
}

// The source port belongs to the inner flow: one flow keeps one, many flows have
// many.
func TestSemanticsSourcePort(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(underlayName(v6), func(t *testing.T) {
			r := newRig(t, rigConfig{v6: v6})
			for _, e := range r.ends() {
				r.checkSourcePorts(e)
			}
		})
	}
}

func (r *rig) checkSourcePorts(e *rigEnd) {
	r.t.Helper()
	const flows = 200
	var frames [][]byte
	for i := range flows {
		f := from(e, innerUDP(proberMAC, 0, uint16(i), 30))
		frames = append(frames, f, f)
	}
	ports, byFlow := map[uint16]bool{}, map[string]uint16{}
	for _, o := range r.sent(e, frames...) {
		flow := string(o.data)
		if p, ok := byFlow[flow]; ok && p != o.sport {
			r.t.Errorf("%s: one flow from ports %d and %d", e.Name(), p, o.sport)
		}
		byFlow[flow] = o.sport
		ports[o.sport] = true
		if o.sport < 1024 || o.sport == encap.DefaultPort {
			r.t.Errorf("%s: from port %d", e.Name(), o.sport)
		}
	}
	if len(byFlow) != flows || len(ports) < 16 {
		r.t.Errorf("%s: %d flows from %d ports, want at least 16", e.Name(), len(byFlow), len(ports))
	}
}
