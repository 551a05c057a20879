// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"testing"

	"kohaku/conf"
	"kohaku/internal/lab"
)

// An end that routes on an L3 TUN, at which the engine speaks Ethernet by itself,
// against the kernel's driver, against a TAP of ours and against its like. The
// topology is that of ends_test.go. VLANs are Ethernet's and left out.
func TestTUN(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, c := range []linkConfig{
			{left: oursTUN, right: kernel}, {left: kernel, right: oursTUN},
			{left: oursTUN, right: ours}, {left: oursTUN, right: oursTUN},
		} {
			c.v6 = v6
			t.Run(c.name(), func(t *testing.T) {
				l := newLink(t, c)
				t.Run("ping of every size", func(t *testing.T) { testPingSizes(t, l, 7) })
				t.Run("TCP", func(t *testing.T) { testTCP(t, l, 16<<20) })
				t.Run("UDP", func(t *testing.T) { testUDP(t, l, 17) })
				l.noDrops(t)
			})
		}
	}
	for _, c := range []linkConfig{
		{left: oursTUN, right: kernel, profile: lab.Wire},
		{left: oursTUN, right: kernel, mtu: 9000, profile: lab.Offload},
		{left: oursTUN, right: kernel, off: conf.Offloads{TSO: true, USO: true, UDPGSO: true, UDPGRO: true}},
	} {
		t.Run(fmt.Sprintf("%s %s MTU %d, offloads off %v", c.name(), c.profile, c.mtu, c.off.TSO), func(t *testing.T) {
			l := newLink(t, c)
			testPingSizes(t, l, 211)
			testTCP(t, l, 8<<20)
			testUDP(t, l, 61)
			l.noDrops(t)
		})
	}
}
