// SPDX-License-Identifier: Apache-2.0

package encap

import "fmt"

// Three sizes are easily mixed up, so two of them are types of their own:
//
//   - UnderlayMTU: the largest IP packet that the machines' own network
//     carries, outer IP header included (1500 on plain Ethernet).
//   - InnerMTU: the largest IP packet that a device of the overlay carries,
//     inner IP header included (1450 on plain Ethernet). It is what ip-link
//     shows for vxlan0 and what a container sees.
//   - frame length: InnerMTU plus the inner Ethernet header, plus 4 for each
//     VLAN tag; lengths of byte slices in this package are frame lengths.

// UnderlayMTU is the MTU of the network that carries the tunnels, in bytes.
type UnderlayMTU int

// InnerMTU is the MTU of a device of the overlay, in bytes.
type InnerMTU int

// What encapsulation adds to an inner IP packet: outer IP (20 or 40), UDP (8),
// VXLAN (8) and the inner Ethernet header (14).
const (
	Overhead4 = 20 + 8 + HeaderLen + EthernetLen // 50, IPv4 underlay
	Overhead6 = 40 + 8 + HeaderLen + EthernetLen // 70, IPv6 underlay
)

// Overhead is Overhead4 or Overhead6.
func Overhead(v6 bool) int {
	if v6 {
		return Overhead6
	}
	return Overhead4
}

// Limits of the inner MTU. IPv4 demands 68 (RFC 791); 576 is what every host
// has to accept and the least that is of use. An outer IP packet cannot be
// longer than 65535 bytes.
const (
	MinInnerMTU InnerMTU = 576
	MaxInnerMTU InnerMTU = 65535 - Overhead6
)

// Inner returns the MTU that an overlay device can have over an underlay of
// MTU u, or an error when that would be less than MinInnerMTU.
func (u UnderlayMTU) Inner(v6 bool) (InnerMTU, error) {
	in := min(InnerMTU(int(u)-Overhead(v6)), MaxInnerMTU)
	if in < MinInnerMTU {
		return 0, fmt.Errorf("underlay MTU %d leaves %d bytes inside the tunnel: at least %d are needed, so an underlay MTU of %d or more",
			u, in, MinInnerMTU, int(MinInnerMTU)+Overhead(v6))
	}
	return in, nil
}
