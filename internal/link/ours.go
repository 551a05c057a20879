// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"net/netip"

	"kohaku/conf"
)

// OurName reports whether kohaku gives devices this name, on a Host or on a Runner.
func OurName(device string) bool {
	switch device {
	case conf.HostAddressDevice, conf.RunnerTunnelDevice, conf.BridgeDevice:
		return true
	}
	_, ok := conf.RunnerIDOfDevice(device)
	return ok
}

// ForeignError is a device that has one of our names and is not ours. It is left
// alone.
type ForeignError struct{ Device Info }

func (e *ForeignError) Error() string {
	is := "without an alias"
	if e.Device.Alias != "" {
		is = fmt.Sprintf("with the alias %q", e.Device.Alias)
	}
	return fmt.Sprintf("the device %s (type %s, %s) was not made by kohaku and is left alone: "+
		"VXLAN traffic cannot use that name (if nobody needs it: ip link delete %s)", e.Device.Name, e.Device.Type, is, e.Device.Name)
}

// Stale gives the test that EnsureAddrs takes, for a device of ours: addresses of
// the current overlay, and of the one that the device's alias tells of, are ours.
func Stale(current conf.Plan, alias string) func(netip.Prefix) bool {
	plans := []conf.Plan{current}
	if a, err := ParseAlias(alias); err == nil && a.Subnet.IsValid() {
		plans = append(plans, a.Subnet)
	}
	return func(p netip.Prefix) bool {
		for _, plan := range plans {
			if plan.Overlay().Contains(p.Addr()) {
				return true
			}
		}
		return false
	}
}
