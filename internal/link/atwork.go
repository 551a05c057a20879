// SPDX-License-Identifier: Apache-2.0

package link

import (
	"github.com/vishvananda/netlink"
)

// AtWork lists the TAP devices of ours whose queues are open, so that a daemon
// carries their frames, or systemd keeps them for one.
func (Kernel) AtWork() (names []string, err error) {
	links, err := Dump(netlink.LinkList)
	if err != nil {
		return nil, fail("list the devices", "", err)
	}
	for _, l := range links {
		if t, ok := l.(*netlink.Tuntap); ok && IsOurs(t.Alias) && t.Queues > 0 {
			names = append(names, t.Name)
		}
	}
	return names, nil
}
