// SPDX-License-Identifier: Apache-2.0

package link

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// LeadsInto reports whether the route to an underlay address goes out by the
// device, or by the bridge that the device is a port of. No route is an error.
func (Kernel) LeadsInto(to netip.Addr, device string) (bool, error) {
	op := "find the route to " + to.String()
	l, err := byName(op, device)
	if err != nil {
		return false, err
	}
	routes, err := netlink.RouteGet(to.WithZone("").AsSlice())
	if err != nil {
		return false, fail(op, "", err)
	}
	a := l.Attrs()
	for _, r := range routes {
		if r.LinkIndex == a.Index || a.MasterIndex != 0 && r.LinkIndex == a.MasterIndex {
			return true, nil
		}
	}
	return false, nil
}
