// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Port is one end of a cable: a device in a node.
type Port struct {
	Node *Node
	Name string
}

// Link returns the device as netlink sees it now.
func (p Port) Link() (netlink.Link, error) {
	l, err := p.Node.handle.LinkByName(p.Name)
	if err != nil {
		return nil, fmt.Errorf("lab: %s in node %s: %w", p.Name, p.Node.name, err)
	}
	return l, nil
}

// HardwareAddr returns the device's MAC address.
func (p Port) HardwareAddr() (net.HardwareAddr, error) {
	l, err := p.Link()
	if err != nil {
		return nil, err
	}
	return l.Attrs().HardwareAddr, nil
}

// Connect lays a cable: a veth pair with its ends in the two nodes, both up.
// MTU 0 means 1500.
func Connect(a *Node, aName string, b *Node, bName string, mtu int) (Port, Port, error) {
	if mtu == 0 {
		mtu = 1500
	}
	pa, pb := Port{a, aName}, Port{b, bName}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = aName, mtu
	veth := &netlink.Veth{
		LinkAttrs:     attrs,
		PeerName:      bName,
		PeerMTU:       uint32(mtu),
		PeerNamespace: netlink.NsFd(b.refs[0].fd),
	}
	err := a.handle.LinkAdd(veth)
	if err == nil {
		err = errors.Join(a.setUp(aName), b.setUp(bName))
	}
	if err != nil {
		return pa, pb, fmt.Errorf("lab: cable %s/%s to %s/%s: %w", a.name, aName, b.name, bName, err)
	}
	return pa, pb, nil
}

// setUp sets a device up.
func (n *Node) setUp(device string) error {
	l, err := n.handle.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s: %w", device, err)
	}
	if err := n.handle.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", device, err)
	}
	return nil
}

// SetUp sets a device of the node up.
func (n *Node) SetUp(device string) error {
	if err := n.setUp(device); err != nil {
		return fmt.Errorf("lab: node %s: %w", n.name, err)
	}
	return nil
}

// SetDown sets a device of the node down.
func (n *Node) SetDown(device string) error {
	l, err := Port{n, device}.Link()
	if err != nil {
		return err
	}
	if err := n.handle.LinkSetDown(l); err != nil {
		return fmt.Errorf("lab: node %s: set %s down: %w", n.name, device, err)
	}
	return nil
}

// SetMTU sets the MTU of a device of the node.
func (n *Node) SetMTU(device string, mtu int) error {
	l, err := Port{n, device}.Link()
	if err != nil {
		return err
	}
	if err := n.handle.LinkSetMTU(l, mtu); err != nil {
		return fmt.Errorf("lab: node %s: set the MTU of %s to %d: %w", n.name, device, mtu, err)
	}
	return nil
}

// Delete removes a device of the node.
func (n *Node) Delete(device string) error {
	l, err := Port{n, device}.Link()
	if err != nil {
		return err
	}
	if err := n.handle.LinkDel(l); err != nil {
		return fmt.Errorf("lab: node %s: delete %s: %w", n.name, device, err)
	}
	return nil
}

// AddAddr gives a device an address with its prefix length. IPv6 addresses are
// usable at once: duplicate address detection is left out.
func (n *Node) AddAddr(device string, prefix netip.Prefix) error {
	l, err := Port{n, device}.Link()
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := n.handle.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("lab: node %s: give %s the address %s: %w", n.name, device, prefix, err)
	}
	return nil
}

// AddRoute adds a route through a gateway. An all-zero prefix is the default route.
func (n *Node) AddRoute(to netip.Prefix, via netip.Addr) error {
	r := &netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}
	if err := n.handle.RouteAdd(r); err != nil {
		return fmt.Errorf("lab: node %s: route %s via %s: %w", n.name, to, via, err)
	}
	return nil
}

// WaitUp waits until a device carries traffic: its operational state is up, or
// unknown for drivers that do not track it.
func (n *Node) WaitUp(ctx context.Context, device string) error {
	for {
		l, err := Port{n, device}.Link()
		if err == nil && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			switch l.Attrs().OperState {
			case netlink.OperUp, netlink.OperUnknown:
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lab: node %s: %s does not come up: %w", n.name, device, errors.Join(ctx.Err(), err))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
