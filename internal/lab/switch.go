// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink"
)

// Switch is an Ethernet switch: a bridge in a node of its own.
type Switch struct {
	Node   *Node
	bridge string
	ports  int
	mtu    int
}

// switchBridge is the name of the bridge in a switch's node.
const switchBridge = "br0"

// Switch makes a switch. MTU 0 means 1500; it goes to all cables of the switch.
func (n *Net) Switch(name string, mtu int) (*Switch, error) {
	node, err := n.Node(name)
	if err != nil {
		return nil, err
	}
	if mtu == 0 {
		mtu = 1500
	}
	if err := node.AddBridge(switchBridge, mtu); err != nil {
		return nil, err
	}
	// A switch has no firewall. Where br_netfilter is loaded, as it is on a machine
	// that Docker ever ran on, every frame would pass one and cost accordingly.
	for _, family := range []string{"iptables", "ip6tables", "arptables"} {
		err := node.Sysctl("net.bridge.bridge-nf-call-"+family, "0")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &Switch{Node: node, bridge: switchBridge, mtu: mtu}, nil
}

// AddBridge makes a bridge in the node and sets it up. It neither snoops
// multicast nor runs spanning tree, so ports forward at once. MTU 0 means 1500.
func (n *Node) AddBridge(name string, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	if mtu == 0 {
		attrs.MTU = 1500
	}
	snoop := false
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snoop}
	if err := n.handle.LinkAdd(br); err != nil {
		return fmt.Errorf("lab: node %s: make bridge %s: %w", n.name, name, err)
	}
	return n.SetUp(name)
}

// AddPort makes a device a port of a bridge in the same node.
func (n *Node) AddPort(bridge, device string) error {
	br, err := Port{n, bridge}.Link()
	if err != nil {
		return err
	}
	l, err := Port{n, device}.Link()
	if err != nil {
		return err
	}
	if err := n.handle.LinkSetMaster(l, br); err != nil {
		return fmt.Errorf("lab: node %s: make %s a port of %s: %w", n.name, device, bridge, err)
	}
	return nil
}

// Attach lays a cable from the node to the switch; the device in the node gets
// the given name. It returns both ends, the node's first.
func (s *Switch) Attach(node *Node, device string) (Port, Port, error) {
	s.ports++
	a, b, err := Connect(node, device, s.Node, fmt.Sprintf("port%d", s.ports), s.mtu)
	if err != nil {
		return a, b, err
	}
	return a, b, s.Node.AddPort(s.bridge, b.Name)
}
