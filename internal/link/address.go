// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// EnsureAddrs gives the device every address in want and takes from it those others
// for which stale answers true: ours of an earlier configuration. What is neither
// stays, it is somebody else's. A nil stale takes nothing away.
func (Kernel) EnsureAddrs(device string, want []netip.Prefix, stale func(netip.Prefix) bool) (changed bool, err error) {
	const op = "set the addresses"
	l, err := byName(op, device)
	if err != nil {
		return false, err
	}
	have, err := addrsOf(l)
	if err != nil {
		return false, err
	}
	// Stale ones go first: deleting a primary address takes its secondaries along.
	for _, p := range have {
		if stale == nil || slices.Contains(want, p) || !stale(p) {
			continue
		}
		err := netlink.AddrDel(l, &netlink.Addr{IPNet: fromPrefix(p)})
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return changed, fail("remove the stale address "+p.String(), device, err)
		}
		changed = true
	}
	if changed {
		if have, err = addrsOf(l); err != nil {
			return true, err
		}
	}
	for _, p := range want {
		if slices.Contains(have, p) {
			continue
		}
		if err := netlink.AddrReplace(l, &netlink.Addr{IPNet: fromPrefix(p)}); err != nil {
			return changed, fail("add the address "+p.String(), device, err)
		}
		changed = true
	}
	return changed, nil
}
