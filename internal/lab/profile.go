// SPDX-License-Identifier: Apache-2.0

package lab

import "fmt"

// Profile says how far super-frames get on an underlay.
type Profile string

const (
	// Offload: 64 KiB super-frames cross whole, as with a NIC that offloads
	// tunnels. It is what veth does by itself.
	Offload Profile = "offload"
	// Wire: every packet crosses on its own, as with a plain NIC.
	Wire Profile = "wire"
)

// features gives the offloads of the profile on a node's side and on a switch's.
// A receiving NIC merges whatever the profile, so gro stays on at the nodes; a
// switch does not, or the frames would not cross as they were sent.
func (p Profile) features() (node, sw map[Feature]bool, err error) {
	switch p {
	case Offload:
		node = map[Feature]bool{FeatureTSO: true, FeatureGSO: true, FeatureUDPTunnelGSO: true, FeatureUDPGSO: true}
		return node, node, nil
	case Wire:
		node = map[Feature]bool{FeatureTSO: false, FeatureGSO: false, FeatureUDPTunnelGSO: false, FeatureUDPGSO: false}
		sw = map[Feature]bool{FeatureTSO: false, FeatureGSO: false, FeatureGRO: false, FeatureUDPTunnelGSO: false, FeatureUDPGSO: false}
		return node, sw, nil
	default:
		return nil, nil, fmt.Errorf("lab: no profile %q; there are %s and %s", p, Offload, Wire)
	}
}

// Apply sets the profile's offloads on a cable between a node and a switch.
func (p Profile) Apply(node, sw Port) error {
	n, s, err := p.features()
	if err != nil {
		return err
	}
	if err := node.SetFeatures(n); err != nil {
		return err
	}
	return sw.SetFeatures(s)
}
