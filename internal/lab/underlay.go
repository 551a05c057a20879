// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"
)

// UnderlayDevice is the name of each machine's device on an [Underlay].
const UnderlayDevice = "eth0"

// The underlay's networks: TEST-NET-1 (RFC 5737) and a unique local prefix (RFC
// 4193). Machine i, from 1, has the address that ends in i.
var (
	underlay4 = netip.MustParsePrefix("192.0.2.0/24")
	underlay6 = netip.MustParsePrefix("fd00:192:0:2::/64")
)

// Underlay is a number of machines on one switch:
//
//	+-------+     +-------+        +-------+
//	| name1 |     | name2 |  ...   | nameN |    eth0  192.0.2.N/24
//	+--+----+     +--+----+        +--+----+          fd00:192:0:2::N/64
//	   |             |                |
//	+--+-------------+----------------+----+
//	|                switch                |
//	+--------------------------------------+
type Underlay struct {
	Switch *Switch
	Hosts  []*UnderlayHost
}

// UnderlayHost is a machine of an [Underlay].
type UnderlayHost struct {
	*Node
	V4, V6 netip.Addr
	Port   Port // eth0
	AtPort Port // the switch's end of the cable
}

// Addr returns the machine's IPv6 or IPv4 address.
func (h *UnderlayHost) Addr(v6 bool) netip.Addr {
	if v6 {
		return h.V6
	}
	return h.V4
}

// UnderlayConfig says how an [Underlay] is built. Zero values mean MTU 1500,
// veth's own offloads ([Offload]) and a switch named "switch".
type UnderlayConfig struct {
	Names   []string // at most 254
	MTU     int
	Profile Profile
	Switch  string // its name, where there are several: nodes of a process are named uniquely
}

// Underlay makes a switch and the named machines on it, and
// waits until all cables carry traffic.
func (n *Net) Underlay(ctx context.Context, c UnderlayConfig) (*Underlay, error) {
	if len(c.Names) > 254 {
		return nil, fmt.Errorf("lab: underlay of %d machines; at most 254 have addresses", len(c.Names))
	}
	if c.Profile == "" {
		c.Profile = Offload
	}
	if c.Switch == "" {
		c.Switch = "switch"
	}
	sw, err := n.Switch(c.Switch, c.MTU)
	if err != nil {
		return nil, err
	}
	u := &Underlay{Switch: sw}
	for i, name := range c.Names {
		node, err := n.Node(name)
		if err != nil {
			return nil, err
		}
		h := &UnderlayHost{Node: node, V4: nth(underlay4, i+1), V6: nth(underlay6, i+1)}
		if h.Port, h.AtPort, err = sw.Attach(node, UnderlayDevice); err != nil {
			return nil, err
		}
		if err := c.Profile.Apply(h.Port, h.AtPort); err != nil {
			return nil, err
		}
		if err := node.AddAddr(UnderlayDevice, netip.PrefixFrom(h.V4, underlay4.Bits())); err != nil {
			return nil, err
		}
		if err := node.AddAddr(UnderlayDevice, netip.PrefixFrom(h.V6, underlay6.Bits())); err != nil {
			return nil, err
		}
		u.Hosts = append(u.Hosts, h)
	}
	for _, h := range u.Hosts {
		for _, p := range []Port{h.Port, h.AtPort} {
			if err := p.Node.WaitUp(ctx, p.Name); err != nil {
				return nil, err
			}
		}
	}
	return u, nil
}

// nth is the address of a prefix that ends in i, 1 to 254.
func nth(p netip.Prefix, i int) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] = byte(i)
	a, _ := netip.AddrFromSlice(b)
	return a
}
