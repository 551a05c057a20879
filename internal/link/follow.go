// SPDX-License-Identifier: Apache-2.0

package link

import (
	"net/netip"

	"github.com/vishvananda/netlink"
)

// FollowAddrs calls set with the device's addresses, now and whenever they change,
// until stop is called; stop returns when set is not called any more. The network
// namespace is the caller's.
func (Kernel) FollowAddrs(device string, set func([]netip.Prefix)) (stop func(), err error) {
	const op = "follow the addresses"
	l, err := byName(op, device)
	if err != nil {
		return nil, err
	}
	// A handle's sockets stay in this namespace, whatever thread uses them.
	h, err := netlink.NewHandle()
	if err != nil {
		return nil, fail(op, device, err)
	}
	updates, done := make(chan netlink.AddrUpdate, 64), make(chan struct{})
	if err := netlink.AddrSubscribe(updates, done); err != nil {
		h.Close()
		return nil, fail(op, device, err)
	}
	look := func() {
		addrs, err := Dump(func() ([]netlink.Addr, error) { return h.AddrList(l, netlink.FAMILY_ALL) })
		if err != nil {
			return // the device is gone; whoever reads it says so
		}
		prefixes := make([]netip.Prefix, 0, len(addrs))
		for _, a := range addrs {
			prefixes = append(prefixes, ToPrefix(a.IPNet))
		}
		set(prefixes)
	}
	look()
	index, ended := l.Attrs().Index, make(chan struct{})
	go func() {
		defer close(ended)
		for u := range updates {
			if u.LinkIndex == index {
				look()
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		h.Close()
	}, nil
}
