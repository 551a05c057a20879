// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"os"
	"strings"

	"kohaku/conf"
)

// keepText says how to get in and what to try.
func (r *run) keepText() []string {
	out := []string{"", "It stays up until Ctrl-C. A shell in each machine, from another terminal:", ""}
	for _, n := range r.net.Nodes() {
		shell := []string{"env", "PS1='" + n.Name() + "# '", "sh"}
		out = append(out, fmt.Sprintf("  %-12s %s", n.Name(), strings.Join(n.EnterCommand(shell...), " ")))
	}
	out = append(out, "", "Things to try there:", "")
	if len(r.ends) == 2 {
		out = append(out,
			"  container-1  ping "+r.ends[1].addr.String(),
			"  container-1  ping "+conf.DefaultHost().Overlay.Subnet.HostAddr().String(),
			fmt.Sprintf("  switch       tcpdump -ni %s udp port %d    # the outer packets", r.underlay.Hosts[theHost].AtPort.Name, vxlanPort),
			"  runner-1     ip -d link show "+conf.RunnerTunnelDevice,
			"  host         ip route; ip -d link show "+conf.HostDevice(1),
			"  host         "+ownPath()+" status --host "+r.socket(),
		)
	}
	out = append(out, "", "Settings and logs of the daemons, in any of these shells: "+r.dir)
	return out
}

// ownPath is how a person can start this program; the lab sees the machine's
// files.
func ownPath() string {
	if path, err := os.Executable(); err == nil {
		return path
	}
	return "kohaku"
}
