// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/netip"
	"os"
	"strings"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/internal/link"
	"kohaku/tun"
	"kohaku/tun/l3"
)

// openDevice makes the device of `kohaku tunnel`.
func (f *tunnelFlags) openDevice(mtu int, off conf.Offloads) (tun.Device, error) {
	if f.device == conf.DeviceTUN {
		o := l3.Options{MTU: mtu, Seed: machineSeed(), NoOffloads: !off.TSO || !off.USO}
		if f.prefix.IsValid() {
			o.Addrs = []netip.Addr{f.prefix.Addr()}
		}
		// Not returned at once: a nil *l3.Device would be a non-nil tun.Device.
		dev, err := l3.Open(f.dev, o)
		if err != nil {
			return nil, err
		}
		return dev, nil
	}
	o := tun.Options{Queues: f.queues, MTU: mtu, TSO: off.TSO, USO: off.USO}
	if f.prefix.IsValid() { // the device is routed into, not a bridge's port
		o.SuperFrame = encap.OneSend(encap.InnerMTU(mtu))
	}
	return tun.OpenTAP(f.dev, o)
}

// machineSeed tells machines apart whose devices have one name. Without an id of
// the machine the host name has to do, which is what an empty seed means.
func machineSeed() string {
	id, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// followAddrs keeps a TUN told of its interface's addresses, which somebody may
// change at any time, until stop is called.
func followAddrs(d *l3.Device) (stop func(), err error) {
	return (link.Kernel{}).FollowAddrs(d.Name(), func(prefixes []netip.Prefix) {
		addrs := make([]netip.Addr, 0, len(prefixes))
		for _, p := range prefixes {
			addrs = append(addrs, p.Addr())
		}
		d.SetAddrs(addrs)
	})
}
