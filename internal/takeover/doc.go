// SPDX-License-Identifier: Apache-2.0

// Package takeover finds the VXLAN devices that the kernel makes, tells those of
// an earlier overlay (vxkrN on the Host, vxlan0 on a Runner) from all others, and
// puts them out of the way so that ours can come in their place: same names, ids,
// VNIs, remotes and addresses.
//
// A kernel VXLAN device holds its UDP port for as long as it is up, and all of them
// in a network namespace share one socket. So ours cannot be made before theirs are
// gone: all go in one step, the port is bound at once, and when anything then fails
// theirs are made again as they were.
//
// Devices of other overlays are never touched. One that holds the port is named.
package takeover

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
)

// Device is a VXLAN device of the kernel as it stands.
type Device struct {
	Name   string
	VNI    uint32
	Remote netip.Addr // zero: none
	Local  netip.Addr // zero: routing decides
	Port   uint16     // UDP
	Up     bool       // only then does it hold its port
	MTU    int
	MAC    net.HardwareAddr
	Master string         // bridge that it is a port of; empty for none
	Addrs  []netip.Prefix // with host bits; link-local IPv6 ones are left out
	// Metadata says that it is steered packet by packet (`external`): it has no VNI
	// and no remote of its own.
	Metadata bool

	link   *netlink.Vxlan // to make it again
	addrs  []netlink.Addr
	routes []netlink.Route // that go with it and do not come back by themselves
}

// String names the device with what tells it from others.
func (d Device) String() string {
	var parts []string
	if d.Metadata {
		parts = append(parts, "external")
	} else {
		parts = append(parts, fmt.Sprintf("VNI %d", d.VNI))
		if d.Remote.IsValid() {
			parts = append(parts, fmt.Sprintf("remote %s", d.Remote))
		}
	}
	parts = append(parts, fmt.Sprintf("UDP port %d", d.Port))
	return fmt.Sprintf("%s (%s)", d.Name, strings.Join(parts, ", "))
}

// addrs4 are the IPv4 ones.
func (d Device) addrs4() (out []netip.Prefix) {
	for _, p := range d.Addrs {
		if p.Addr().Is4() {
			out = append(out, p)
		}
	}
	return out
}

// Bridge is what a Runner's bridge tells of its overlay.
type Bridge struct {
	Addrs  []netip.Prefix
	Routes []Route // IPv4 ones with a next hop
}

// Route is one by way of the bridge.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// System is the machine's network; Kernel is the real one.
type System interface {
	// Find lists the kernel's VXLAN devices, by name.
	Find() ([]Device, error)
	// Bridge looks at a bridge. One that does not exist tells nothing.
	Bridge(name string) (Bridge, error)
	// Remove deletes devices that Find gave, all or none. restore makes them again
	// as they were.
	Remove([]Device) (restore func() error, err error)
}
