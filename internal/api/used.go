// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net/netip"
	"slices"
)

// MaxUsedAddresses is how many addresses of containers one heartbeat may carry.
const MaxUsedAddresses = 1024

// checkUsed checks what can be checked without knowing the Runner's subnet.
func (h *Heartbeat) checkUsed() error {
	if n := len(h.UsedAddresses); n > MaxUsedAddresses {
		return &FieldError{"used_addresses", fmt.Sprintf("%d entries, at most %d are allowed", n, MaxUsedAddresses)}
	}
	for i, a := range h.UsedAddresses {
		if !a.Is4() {
			return &FieldError{"used_addresses", fmt.Sprintf("%s is not an IPv4 address", a)}
		}
		if i > 0 && !h.UsedAddresses[i-1].Less(a) {
			return &FieldError{"used_addresses", fmt.Sprintf("%s is out of order, or there twice", a)}
		}
	}
	return nil
}

// CheckUsed refuses used addresses that are not of the Runner's subnet. The error
// is a *FieldError.
func (h *Heartbeat) CheckUsed(subnet netip.Prefix) error {
	for _, a := range h.UsedAddresses {
		if !subnet.Contains(a) {
			return &FieldError{"used_addresses", fmt.Sprintf("%s is outside the Runner's subnet %s", a, subnet)}
		}
	}
	return nil
}

// FitUsed brings a list of addresses into the form that a heartbeat may carry:
// those inside subnet, sorted, each once, at most MaxUsedAddresses. all is false
// when more were there. Nil, which is not known, stays nil, and only that.
func FitUsed(addrs []netip.Addr, subnet netip.Prefix) (out []netip.Addr, all bool) {
	if addrs == nil {
		return nil, true
	}
	out = []netip.Addr{}
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() && subnet.Contains(a) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	out = slices.Compact(out)
	return out[:min(len(out), MaxUsedAddresses)], len(out) <= MaxUsedAddresses
}
