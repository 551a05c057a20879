// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"strconv"
	"strings"
)

// Names of devices and of the Docker network. They are the same on every
// machine, so that tools and people find them.
const (
	HostAddressDevice  = "kohaku-host"         // Host: carries the Host's overlay address
	RunnerTunnelDevice = "vxlan0"              // Runner: tunnel to the Host, a port of the bridge
	BridgeDevice       = "kohaku-overlay"      // Runner: bridge of the containers, carries the gateway address
	DockerNetwork      = "kohakuriver-overlay" // Runner: the default of overlay.network_name
)

const hostDevicePrefix = "vxkr"

// HostDevice returns the name of the Host's tunnel device for runner id: "vxkr"
// and the id in base 36, so "vxkr1" and "vxkra" for 10. The longest, for id
// 65535, has 8 characters; the kernel takes 15.
func HostDevice(id int) string { return hostDevicePrefix + strconv.FormatInt(int64(id), 36) }

// RunnerIDOfDevice is the inverse of [HostDevice]. ok is false for any name
// that HostDevice would not give for an id of 1..65535: other devices, upper
// case, leading zeros.
func RunnerIDOfDevice(name string) (id int, ok bool) {
	digits, ok := strings.CutPrefix(name, hostDevicePrefix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 36, 16)
	if err != nil || n == 0 || HostDevice(int(n)) != name {
		return 0, false
	}
	return int(n), true
}
