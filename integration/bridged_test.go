// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"testing"

	"kohaku/internal/lab"
)

// A container behind a bridge on either side, as on Runners. Nothing on the way
// reassembles: a frame larger than the container's MTU must be a super-frame
// that says so, or the bridge drops it.
//
//	left                                              right
//	+---------------------------+      +---------------------------+
//	| inleft   10.78.0.1/24     |      |     inright  10.78.0.2/24 |
//	|   eth0 -- br1 -- ov0      |      |      ov0 -- br1 -- eth0   |
//	|              eth0         |      |         eth0              |
//	+----------------+----------+      +----------+----------------+
//	                 +---------- switch ----------+
func TestInteropBridged(t *testing.T) {
	for _, profile := range []lab.Profile{lab.Offload, lab.Wire} {
		for _, c := range pairings(linkConfig{left: ours, right: ours}) {
			c.profile = profile
			t.Run(string(profile)+" "+c.name(), func(t *testing.T) {
				l := newLink(t, c)
				inner := containers(t, l)
				testPingSizes(t, inner, 211)
				testTCP(t, inner, 16<<20)
				testUDP(t, inner, 61)
				l.noDrops(t)
			})
		}
	}
}

// containers puts a container behind a bridge on each side of the link, and
// returns the link as the containers see it.
func containers(t *testing.T, l *link) *link {
	t.Helper()
	inner := &link{mtu: l.mtu}
	var ends [2]*end
	for i, e := range []*end{l.left, l.right} {
		n := must(lab.NewNet())(t)
		t.Cleanup(func() {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		})
		c := must(n.Node("in" + e.Name()))(t)
		check(t, e.AddBridge("br1", l.mtu))
		check(t, e.AddPort("br1", overlayDevice))
		port, _, err := lab.Connect(c, "eth0", e.Node, "inside", l.mtu)
		check(t, err)
		check(t, e.AddPort("br1", "inside"))
		in := &end{UnderlayHost: &lab.UnderlayHost{Node: c}, dev: port,
			v4: netip.AddrFrom4([4]byte{10, 78, 0, byte(i + 1)}),
			v6: netip.MustParseAddr([]string{"fd78::1", "fd78::2"}[i])}
		check(t, c.AddAddr("eth0", netip.PrefixFrom(in.v4, 24)))
		check(t, c.AddAddr("eth0", netip.PrefixFrom(in.v6, 64)))
		ends[i] = in
	}
	inner.left, inner.right = ends[0], ends[1]
	return inner
}
