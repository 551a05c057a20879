// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"net/netip"
)

// metricsOff is what [host] and [runner] have as metrics when they are not served.
const metricsOff = "off"

// parseMetrics reads where metrics are served; example is the default.
func parseMetrics(example string) func(string) (netip.AddrPort, error) {
	return func(s string) (netip.AddrPort, error) {
		if s == "" || s == metricsOff {
			return netip.AddrPort{}, nil
		}
		ap, err := netip.ParseAddrPort(s)
		z := ap.Addr().Zone()
		if err != nil || ap.Port() == 0 || ap.Addr().IsMulticast() || z != "" && !plainName(z) {
			return netip.AddrPort{}, fmt.Errorf("must be an address and port of this machine, such as %q, or %q", example, metricsOff)
		}
		return ap, nil
	}
}

func formatMetrics(a netip.AddrPort) string {
	if !a.IsValid() {
		return metricsOff
	}
	return a.String()
}
