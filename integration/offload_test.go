// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"testing"

	"kohaku/conf"
	"kohaku/internal/lab"
)

// The topology is that of ends_test.go.

// without are the ways to switch offloads off: each alone, and all of them. TCP
// and UDP super-frames of the device, many datagrams in one send, and in one
// receive.
var without = map[string]conf.Offloads{
	"without tso":     {TSO: true},
	"without uso":     {USO: true},
	"without udp_gso": {UDPGSO: true},
	"without udp_gro": {UDPGRO: true},
	"without any":     {TSO: true, USO: true, UDPGSO: true, UDPGRO: true},
}

// The whole of TestInterop, with less of everything, for each offload that may be
// missing: between the kernel's driver and us, both ways, over both families. Then
// containers behind bridges, on an underlay where every packet crosses on its own.
func TestOffloadsOff(t *testing.T) {
	for name, off := range without {
		for _, c := range pairings() {
			c.off = off
			t.Run(name+" "+c.name(), func(t *testing.T) {
				l := newLink(t, c)
				testResolution(t, l)
				testPingSizes(t, l, 97)
				testTCP(t, l, 8<<20)
				testUDP(t, l, 61)
				testVLAN(t, l)
				l.noDrops(t)
				for _, e := range []*end{l.left, l.right} {
					if e.engine == nil {
						continue
					}
					s, tunnel := e.engine.Stats(), e.engine.Tunnels()[0]
					if off.UDPGSO && s.UDPGSO || off.UDPGRO && s.UDPGRO {
						t.Errorf("%s uses what is off: %+v", e.Name(), s)
					}
					if off.TSO && off.USO && tunnel.Tx.SuperFrames > 0 {
						t.Errorf("%s passed super-frames: %+v", e.Name(), tunnel)
					}
				}
			})
		}
	}
	for name, off := range without {
		for _, c := range []linkConfig{{left: ours, right: kernel}, {left: kernel, right: ours, v6: true}} {
			c.off, c.profile = off, lab.Wire
			t.Run("bridged, wire, "+name+" "+c.name(), func(t *testing.T) {
				l := newLink(t, c)
				inner := containers(t, l)
				testPingSizes(t, inner, 499)
				testTCP(t, inner, 2<<20)
				testUDP(t, inner, 211)
				l.noDrops(t)
			})
		}
	}
}
