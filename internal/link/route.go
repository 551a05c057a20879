// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks the routes that kohaku made; `ip route show proto 75` lists
// them. Numbers from 5 up are for routing daemons (rtnetlink(7), rtm_protocol).
const RouteProtocol = 75

// EnsureRoute routes dst via the next hop on the device, and removes other routes
// that an earlier configuration of ours left on this device.
func (Kernel) EnsureRoute(device string, dst netip.Prefix, via netip.Addr) (changed bool, err error) {
	op := fmt.Sprintf("add the route %s via %s", dst, via)
	l, err := byName(op, device)
	if err != nil {
		return false, err
	}
	filter := &netlink.Route{LinkIndex: l.Attrs().Index, Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN}
	have, err := Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return false, fail("list the routes", device, err)
	}
	present := false
	for _, r := range have {
		gw, _ := netip.AddrFromSlice(r.Gw)
		if ToPrefix(r.Dst) == dst && gw.Unmap() == via {
			present = true
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return changed, fail("remove the stale route "+r.String(), device, err)
		}
		changed = true
	}
	if present {
		return changed, nil
	}
	err = netlink.RouteReplace(&netlink.Route{
		LinkIndex: l.Attrs().Index, Dst: fromPrefix(dst), Gw: net.IP(via.AsSlice()), Protocol: RouteProtocol,
	})
	if err != nil {
		return changed, fail(op, device, err)
	}
	return true, nil
}

// Path is how this machine reaches an underlay address.
type Path struct {
	Local  netip.Addr // the source address that the kernel picks
	Device string
	MTU    int  // of the device, in bytes
	Own    bool // the destination is an address of this machine
}

// PathTo asks the kernel for the route to an underlay address.
func (Kernel) PathTo(to netip.Addr) (Path, error) {
	op := "find the route to " + to.String()
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil {
		return Path{}, fail(op, "", err)
	}
	if len(routes) == 0 {
		return Path{}, fail(op, "", unix.ENETUNREACH)
	}
	r := routes[0]
	l, err := netlink.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Path{}, fail(op, "", err)
	}
	local, ok := netip.AddrFromSlice(r.Src)
	if !ok {
		return Path{}, fail(op, l.Attrs().Name, fmt.Errorf("the kernel names no source address; has the device one?"))
	}
	return Path{Local: local.Unmap(), Device: l.Attrs().Name, MTU: l.Attrs().MTU, Own: r.Type == unix.RTN_LOCAL}, nil
}

// DefaultMTU gives the MTU in bytes of the device that the default route uses, and
// false when there is none.
func (Kernel) DefaultMTU() (int, bool) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := Dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil {
			continue
		}
		for _, r := range routes {
			if r.Dst != nil && ToPrefix(r.Dst).Bits() != 0 || r.LinkIndex == 0 {
				continue
			}
			if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
				return l.Attrs().MTU, true
			}
		}
	}
	return 0, false
}
