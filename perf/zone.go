// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"net"
	"strconv"
)

// zoneID gives the index of an IPv6 zone, which is an interface's name or its
// number; 0 for none.
func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	return 0
}
