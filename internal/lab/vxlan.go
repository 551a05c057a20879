// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrNoKernelVXLAN is returned where the kernel has no VXLAN driver.
var ErrNoKernelVXLAN = errors.New("lab: this kernel has no vxlan driver (CONFIG_VXLAN; `modprobe vxlan` as root)")

// KernelVXLAN describes a VXLAN device of the kernel, to compare with: point to
// point, without learning, all other settings as `ip link add` leaves them.
type KernelVXLAN struct {
	Name   string
	VNI    uint32
	Local  netip.Addr // may be zero: the kernel chooses
	Remote netip.Addr
	Port   uint16 // 0: 4789
	MTU    int    // 0: what the kernel chooses, which without a lower device is 1500
	Lower  string // device to send through; may be empty: routing decides
}

// AddKernelVXLAN makes the device in the node and sets it up.
func (n *Node) AddKernelVXLAN(v KernelVXLAN) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = v.Name, v.MTU
	l := &netlink.Vxlan{
		LinkAttrs: attrs,
		VxlanId:   int(v.VNI),
		Group:     v.Remote.AsSlice(),
		SrcAddr:   v.Local.AsSlice(),
		Port:      int(v.Port),
		Learning:  false,
		UDPCSum:   true,
	}
	if l.Port == 0 {
		l.Port = 4789
	}
	if v.Lower != "" {
		lower, err := Port{n, v.Lower}.Link()
		if err != nil {
			return err
		}
		l.VtepDevIndex = lower.Attrs().Index
	}
	switch err := n.handle.LinkAdd(l); {
	case errors.Is(err, unix.EOPNOTSUPP):
		return ErrNoKernelVXLAN
	case err != nil:
		return fmt.Errorf("lab: node %s: make kernel VXLAN device %s (VNI %d to %s): %w", n.name, v.Name, v.VNI, v.Remote, err)
	}
	return n.SetUp(v.Name)
}
