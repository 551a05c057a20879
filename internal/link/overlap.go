// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kohaku/conf"
)

// Use is an address or a route that the machine has.
type Use struct {
	Prefix netip.Prefix // masked
	Device string       // empty for a route over several devices
	Route  bool         // a route; else an address
	Text   string       // as a person would see it in `ip addr` or `ip route`
}

func (u Use) String() string {
	kind := "address"
	if u.Route {
		kind = "route"
	}
	if u.Device == "" {
		return kind + " " + u.Text
	}
	return fmt.Sprintf("%s %s on %s", kind, u.Text, u.Device)
}

// Uses lists the addresses and unicast routes of the machine, of all tables, but
// for those on devices that skip names. Left out are default routes, also when
// split into two halves of the address space as VPNs do: a more specific overlay
// beside them is no conflict.
func (k Kernel) Uses(skip func(device string) bool) ([]Use, error) {
	devices, err := k.Devices()
	if err != nil {
		return nil, err
	}
	names := make(map[int]string)
	var uses []Use
	for _, d := range devices {
		names[d.Index] = d.Name
		if skip(d.Name) {
			continue
		}
		for _, a := range d.Addrs {
			uses = append(uses, Use{Prefix: a.Masked(), Device: d.Name, Text: a.String()})
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{Table: unix.RT_TABLE_UNSPEC, Type: unix.RTN_UNICAST}
		routes, err := Dump(func() ([]netlink.Route, error) {
			return netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
		})
		if err != nil {
			return nil, fail("list the routes", "", err)
		}
		for _, r := range routes {
			dst := ToPrefix(r.Dst)
			if r.Dst == nil || !dst.IsValid() || dst.Bits() <= 1 || skip(names[r.LinkIndex]) && r.LinkIndex != 0 {
				continue
			}
			text := dst.String()
			if gw, ok := netip.AddrFromSlice(r.Gw); ok {
				text += " via " + gw.Unmap().String()
			}
			uses = append(uses, Use{Prefix: dst.Masked(), Device: names[r.LinkIndex], Route: true, Text: text})
		}
	}
	return uses, nil
}

// OverlapError is the refusal of an overlay that collides with what the machine
// already uses.
type OverlapError struct {
	Plan      conf.Plan
	Conflicts []Use
	Suggest   conf.Plan // valid only with Fits
	Fits      bool
}

func (e *OverlapError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the overlay %s overlaps what this machine already has: ", e.Plan.Overlay())
	for i, u := range e.Conflicts {
		if i == 3 {
			fmt.Fprintf(&b, " and %d more", len(e.Conflicts)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(u.String())
	}
	if e.Fits {
		fmt.Fprintf(&b, " (choose another overlay; subnet = %q in the [overlay] section of host.toml would fit here)", e.Suggest)
	} else {
		b.WriteString(" (choose a smaller overlay in the [overlay] section of host.toml)")
	}
	return b.String()
}

// CheckOverlap answers with an *OverlapError when the plan's overlay touches one of
// the uses, and with nil when it does not.
func CheckOverlap(plan conf.Plan, uses []Use) error {
	var conflicts []Use
	var taken []netip.Prefix
	for _, u := range uses {
		if !u.Prefix.Addr().Is4() {
			continue
		}
		taken = append(taken, u.Prefix)
		if u.Prefix.Overlaps(plan.Overlay()) {
			conflicts = append(conflicts, u)
		}
	}
	if len(conflicts) == 0 {
		return nil
	}
	suggest, ok := conf.SuggestPlan(plan, taken)
	return &OverlapError{Plan: plan, Conflicts: conflicts, Suggest: suggest, Fits: ok}
}
