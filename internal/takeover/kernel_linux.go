// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"cmp"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"kohaku/internal/link"
)

// Kernel is the network namespace of the calling thread. The zero value is ready
// for use.
type Kernel struct{}

var _ System = Kernel{}

func fail(op, device string, err error) error { return &link.Error{Op: op, Device: device, Err: err} }

// Find is System's.
func (Kernel) Find() ([]Device, error) {
	links, err := link.Dump(netlink.LinkList)
	if err != nil {
		return nil, fail("list the devices", "", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var found []Device
	for _, l := range links {
		v, ok := l.(*netlink.Vxlan)
		if !ok {
			continue
		}
		d := Device{
			Name: v.Name, VNI: uint32(v.VxlanId), Remote: toAddr(v.Group), Local: toAddr(v.SrcAddr), Port: uint16(v.Port),
			Up: v.Flags&net.FlagUp != 0, MTU: v.MTU, MAC: v.HardwareAddr, Master: names[v.MasterIndex], Metadata: v.FlowBased, link: v,
		}
		addrs, err := link.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(v, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fail("list the addresses", v.Name, err)
		}
		for _, a := range addrs {
			if p := link.ToPrefix(a.IPNet); p.IsValid() && !(p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()) {
				d.Addrs = append(d.Addrs, p)
				d.addrs = append(d.addrs, a)
			}
		}
		if d.routes, err = ownRoutes(v); err != nil {
			return nil, fail("list the routes", v.Name, err)
		}
		found = append(found, d)
	}
	slices.SortFunc(found, func(a, b Device) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

// ownRoutes are a device's routes that do not come back with its addresses.
func ownRoutes(l netlink.Link) ([]netlink.Route, error) {
	filter := &netlink.Route{LinkIndex: l.Attrs().Index, Table: unix.RT_TABLE_UNSPEC}
	routes, err := link.Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	return slices.DeleteFunc(routes, func(r netlink.Route) bool { return r.Protocol == unix.RTPROT_KERNEL }), err
}

// Bridge is System's.
func (Kernel) Bridge(name string) (Bridge, error) {
	l, err := netlink.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return Bridge{}, nil
	}
	if err != nil {
		return Bridge{}, fail("look up the bridge", name, err)
	}
	var b Bridge
	addrs, err := link.Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) })
	if err != nil {
		return Bridge{}, fail("list the addresses", name, err)
	}
	for _, a := range addrs {
		b.Addrs = append(b.Addrs, link.ToPrefix(a.IPNet))
	}
	routes, err := ownRoutes(l)
	if err != nil {
		return Bridge{}, fail("list the routes", name, err)
	}
	for _, r := range routes {
		if via := toAddr(r.Gw); via.IsValid() && r.Dst != nil {
			b.Routes = append(b.Routes, Route{Dst: link.ToPrefix(r.Dst).Masked(), Via: via})
		}
	}
	return b, nil
}

// Remove is System's. The devices go in one step: they are put into a group of
// their own, and the group is deleted (RTM_DELLINK with IFLA_GROUP, rtnl_dellink in
// net/core/rtnetlink.c), which takes about as long for all as for one.
func (Kernel) Remove(devices []Device) (restore func() error, err error) {
	restore = func() error {
		var errs error
		for _, d := range devices {
			errs = errors.Join(errs, d.make())
		}
		return errs
	}
	if len(devices) == 0 {
		return restore, nil
	}
	group, err := freeGroup()
	if err != nil {
		return nil, err
	}
	for i, d := range devices {
		if err := netlink.LinkSetGroup(d.link, int(group)); err != nil {
			for _, d := range devices[:i] {
				_ = netlink.LinkSetGroup(d.link, int(d.link.LinkAttrs.Group)) // the first error tells what is wrong
			}
			return nil, fail("mark for removal", d.Name, err)
		}
	}
	if err := deleteGroup(group); err != nil {
		for _, d := range devices {
			_ = netlink.LinkSetGroup(d.link, int(d.link.LinkAttrs.Group))
		}
		return nil, fail("delete the kernel's VXLAN devices", "", err)
	}
	return restore, nil
}

// freeGroup finds a group number that no device has.
func freeGroup() (uint32, error) {
	links, err := link.Dump(netlink.LinkList)
	if err != nil {
		return 0, fail("list the devices", "", err)
	}
	for {
		group := rand.Uint32N(1<<30) + 1<<30
		if !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Group == group }) {
			return group, nil
		}
	}
}

func deleteGroup(group uint32) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// make makes the device as it was.
func (d Device) make() error {
	op := "make again as it was"
	was := d.link
	v := *was
	v.LinkAttrs = netlink.LinkAttrs{
		Name: was.Name, MTU: was.MTU, TxQLen: was.TxQLen, HardwareAddr: was.HardwareAddr, MasterIndex: was.MasterIndex, Group: was.LinkAttrs.Group,
	}
	if err := netlink.LinkAdd(&v); err != nil {
		return fail(op, d.Name, err)
	}
	var errs error
	if was.Alias != "" {
		errs = errors.Join(errs, netlink.LinkSetAlias(&v, was.Alias))
	}
	for _, a := range d.addrs {
		if a.Broadcast == nil {
			a.Broadcast = net.IPv4zero // else the library makes one up
		}
		errs = errors.Join(errs, netlink.AddrAdd(&v, &a))
	}
	if d.Up {
		errs = errors.Join(errs, netlink.LinkSetUp(&v))
	}
	for _, r := range d.routes {
		r.LinkIndex = v.Index
		r.Flags &= int(netlink.FLAG_ONLINK) // the others are for the kernel to say
		errs = errors.Join(errs, netlink.RouteReplace(&r))
	}
	if errs != nil {
		return fail(op, d.Name, errs)
	}
	return nil
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
