// SPDX-License-Identifier: Apache-2.0

package link

import (
	"github.com/vishvananda/netlink"
)

// EnsureNoQueue takes the queueing discipline from a device, which VXLAN devices of
// the kernel do not have either. To be called before the device is set up for the
// first time: the kernel would otherwise give each of the 256 transmit queues that a
// multi-queue TAP may have a pfifo_fast of its own, megabytes in all, although the
// driver never makes packets wait there (tun_net_xmit in drivers/net/tun.c drops
// them when its ring is full).
func (Kernel) EnsureNoQueue(device string) (changed bool, err error) {
	const op, none = "remove the queueing discipline", "noqueue"
	l, err := byName(op, device)
	if err != nil {
		return false, err
	}
	have, err := Dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(l) })
	if err != nil {
		return false, fail(op, device, err)
	}
	for _, q := range have {
		if q.Attrs().Parent == netlink.HANDLE_ROOT && q.Type() == none {
			return false, nil
		}
	}
	err = netlink.QdiscReplace(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT},
		QdiscType:  none,
	})
	if err != nil {
		return false, fail(op, device, err)
	}
	return true, nil
}
