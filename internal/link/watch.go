// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watched are the multicast groups of rtnetlink(7) that tell of devices, addresses
// and routes.
var watched = []uint{
	unix.RTNLGRP_LINK,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
}

// Watch tells that something about this machine's devices, addresses or routes has
// changed: a token then lies in the channel, one for any number of changes. What
// has changed is for the caller to look up; so a message that the kernel lost when
// there were too many does no harm. The channel is closed when ctx ends, or when
// the kernel gives no more messages.
func (Kernel) Watch(ctx context.Context) (<-chan struct{}, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, watched...)
	if err != nil {
		return nil, fail("watch the network", "", err)
	}
	changed := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, s.Close)
	go func() {
		defer close(changed)
		defer func() {
			if stop() {
				s.Close()
			}
		}()
		for {
			// ENOBUFS says that messages were lost, so that something did change.
			if _, _, err := s.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed, nil
}
