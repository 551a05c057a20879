// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
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
	return p.Node.Do(func() error {
		e, err := openEthtool(p.Name)
		if err != nil {
			return fmt.Errorf("lab: offloads of %s in node %s: %w", p.Name, p.Node.name, err)
		}
		defer e.close()
		if err := e.set(want); err != nil {
			return fmt.Errorf("lab: offloads of %s in node %s: %w", p.Name, p.Node.name, err)
		}
		return nil
	})
}

// Features returns the offloads of the device that are on, by the kernel's names.
func (p Port) Features() (map[string]bool, error) {
	on := map[string]bool{}
	err := p.Node.Do(func() error {
		e, err := openEthtool(p.Name)
		if err != nil {
			return fmt.Errorf("lab: offloads of %s in node %s: %w", p.Name, p.Node.name, err)
		}
		defer e.close()
		blocks, err := e.get()
		if err != nil {
			return err
		}
		for i, name := range e.names {
			if name != "" {
				on[name] = blocks[i/32].Active&(1<<(i%32)) != 0
			}
		}
		return nil
	})
	return on, err
}

// ethtool is a device's feature interface (SIOCETHTOOL), open.
type ethtool struct {
	fd     int
	device string
	names  []string // by bit number
}

// featureBlock is struct ethtool_get_features_block: 32 features.
type featureBlock struct{ Available, Requested, Active, NeverChanged uint32 }

// setBlock is struct ethtool_set_features_block: 32 features.
type setBlock struct{ Valid, Requested uint32 }

func openEthtool(device string) (*ethtool, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	e := &ethtool{fd: fd, device: device}
	if e.names, err = e.featureNames(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return e, nil
}

func (e *ethtool) close() { unix.Close(e.fd) }

func (e *ethtool) set(want map[Feature]bool) error {
	req := make([]setBlock, (len(e.names)+31)/32)
	have, err := e.get()
	if err != nil {
		return err
	}
	for f, on := range want {
		known := false
		for i, name := range e.names {
			if name == "" || !f.matches(name) {
				continue
			}
			known = true
			bit := uint32(1) << (i % 32)
			if have[i/32].Available&bit == 0 {
				continue // fixed; checked below
			}
			req[i/32].Valid |= bit
			if on {
				req[i/32].Requested |= bit
			}
		}
		if !known {
			return fmt.Errorf("this kernel knows no feature %q", f)
		}
	}
	if err := e.setFeatures(req); err != nil {
		return fmt.Errorf("ETHTOOL_SFEATURES: %w", err)
	}
	now, err := e.get()
	if err != nil {
		return err
	}
	for i, name := range e.names {
		bit := uint32(1) << (i % 32)
		if req[i/32].Valid&bit != 0 && req[i/32].Requested&bit == 0 && now[i/32].Active&bit != 0 {
			return fmt.Errorf("%s stays on", name)
		}
	}
	for f, on := range want {
		if on && !anyActive(f, e.names, now) {
			return fmt.Errorf("%s stays off", f)
		}
	}
	return nil
}

// anyActive reports whether one of the kernel features behind f is on.
func anyActive(f Feature, names []string, blocks []featureBlock) bool {
	for i, name := range names {
		if name != "" && f.matches(name) && blocks[i/32].Active&(1<<(i%32)) != 0 {
			return true
		}
	}
	return false
}

// cString is the text of b up to its first zero byte.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
