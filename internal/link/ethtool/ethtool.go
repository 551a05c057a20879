// SPDX-License-Identifier: Apache-2.0

// Package ethtool reads and switches the offloads of network devices, as
// `ethtool -k` and `-K` do, by the ioctl SIOCETHTOOL. It acts on the network
// namespace of the thread that calls Open.
package ethtool

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// Device is the feature interface of one network device, open. Close it.
type Device struct {
	fd    int
	name  string
	names []string // of features, by bit number; empty where a bit has none
}

// Feature is one offload of a device.
type Feature struct {
	Name      string // the kernel's (net/ethtool/common.c, netdev_features_strings)
	Available bool   // it can be switched on and off
	Active    bool   // it is on
}

// block is struct ethtool_get_features_block: 32 features.
type block struct{ Available, Requested, Active, NeverChanged uint32 }

// wish is struct ethtool_set_features_block: 32 features.
type wish struct{ Valid, Requested uint32 }

// Open opens the device of that name. An error has the step that failed in it.
func Open(device string) (*Device, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	d := &Device{fd: fd, name: device}
	if d.names, err = d.featureNames(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return d, nil
}

// Close ends the use of the device.
func (d *Device) Close() { unix.Close(d.fd) }

// Features lists all features that this kernel knows, as they are on the device.
func (d *Device) Features() ([]Feature, error) {
	blocks, err := d.get()
	if err != nil {
		return nil, err
	}
	all := make([]Feature, 0, len(d.names))
	for i, name := range d.names {
		if name != "" {
			bit := uint32(1) << (i % 32)
			all = append(all, Feature{name, blocks[i/32].Available&bit != 0, blocks[i/32].Active&bit != 0})
		}
	}
	return all, nil
}

// Set switches features, by the kernel's names. One that is not available, or
// that this kernel does not know, is passed over. Features depend on each other,
// so look at Features for what came of it. It takes CAP_NET_ADMIN.
func (d *Device) Set(want map[string]bool) error {
	have, err := d.get()
	if err != nil {
		return err
	}
	wishes := make([]wish, len(have))
	for i, name := range d.names {
		on, asked := want[name]
		bit := uint32(1) << (i % 32)
		if name == "" || !asked || have[i/32].Available&bit == 0 {
			continue
		}
		wishes[i/32].Valid |= bit
		if on {
			wishes[i/32].Requested |= bit
		}
	}
	if err := d.set(wishes); err != nil {
		return fmt.Errorf("ETHTOOL_SFEATURES: %w", err)
	}
	return nil
}

// cString is the text of b up to its first zero byte.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
