// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"strings"

	"kohaku/internal/link/ethtool"
)

// Feature is an offload of a network device. The short names are those of
// `ethtool -K`, and stand for one or several of the kernel's features; the
// kernel's own names (as "tx-udp-segmentation") may be used as well.
type Feature string

// The features that decide whether super-frames and partial checksums cross a
// device.
const (
	FeatureTX           Feature = "tx"                      // transmit checksums
	FeatureRX           Feature = "rx"                      // receive checksums
	FeatureTSO          Feature = "tso"                     // TCP super-frames
	FeatureGSO          Feature = "gso"                     // segmentation left to the last moment
	FeatureGRO          Feature = "gro"                     // merging on receive
	FeatureUDPTunnelGSO Feature = "tx-udp_tnl-segmentation" // TCP super-frames inside UDP tunnels, with and without outer checksum
	FeatureUDPGSO       Feature = "tx-udp-segmentation"     // UDP super-frames
)

// matches reports whether the feature stands for the kernel feature of that name
// (net/ethtool/common.c, netdev_features_strings).
func (f Feature) matches(kernel string) bool {
	switch f {
	case FeatureTX:
		return strings.HasPrefix(kernel, "tx-checksum-")
	case FeatureRX:
		return kernel == "rx-checksum"
	case FeatureTSO:
		return strings.HasPrefix(kernel, "tx-tcp") && strings.HasSuffix(kernel, "-segmentation")
	case FeatureGSO:
		return kernel == "tx-generic-segmentation"
	case FeatureGRO:
		return kernel == "rx-gro"
	case FeatureUDPTunnelGSO:
		return kernel == "tx-udp_tnl-segmentation" || kernel == "tx-udp_tnl-csum-segmentation"
	default:
		return kernel == string(f)
	}
}

// SetFeatures switches offloads of the device on or off. It is an error if the
// kernel knows no such feature or the device cannot change it.
func (p Port) SetFeatures(want map[Feature]bool) error {
	return p.offloads(func(d *ethtool.Device) error { return setFeatures(d, want) })
}

// Features returns the offloads of the device that are on, by the kernel's names.
func (p Port) Features() (map[string]bool, error) {
	on := map[string]bool{}
	err := p.offloads(func(d *ethtool.Device) error {
		all, err := d.Features()
		for _, f := range all {
			on[f.Name] = f.Active
		}
		return err
	})
	return on, err
}

// offloads gives do the device's feature interface.
func (p Port) offloads(do func(*ethtool.Device) error) error {
	err := p.Node.Do(func() error {
		d, err := ethtool.Open(p.Name)
		if err != nil {
			return err
		}
		defer d.Close()
		return do(d)
	})
	if err != nil {
		return fmt.Errorf("lab: offloads of %s in node %s: %w", p.Name, p.Node.name, err)
	}
	return nil
}

func setFeatures(d *ethtool.Device, want map[Feature]bool) error {
	have, err := d.Features()
	if err != nil {
		return err
	}
	names := map[string]bool{}
	for f, on := range want {
		known := false
		for _, h := range have {
			if f.matches(h.Name) {
				known = true
				names[h.Name] = on
			}
		}
		if !known {
			return fmt.Errorf("this kernel knows no feature %q", f)
		}
	}
	if err := d.Set(names); err != nil {
		return err
	}
	now, err := d.Features()
	if err != nil {
		return err
	}
	for _, f := range now {
		if on, asked := names[f.Name]; asked && !on && f.Available && f.Active {
			return fmt.Errorf("%s stays on", f.Name)
		}
	}
	for f, on := range want {
		if on && !slices.ContainsFunc(now, func(n ethtool.Feature) bool { return n.Active && f.matches(n.Name) }) {
			return fmt.Errorf("%s stays off", f)
		}
	}
	return nil
}
