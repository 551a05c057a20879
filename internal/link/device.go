// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// StableMAC gives the hardware address of a device of ours: a hash of the machine
// id and the device's name, marked as locally administered and individual (IEEE
// 802 section 8.4). Neighbours' caches stay right when a device is made anew.
func StableMAC(machineID, device string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("kohaku mac\x00" + machineID + "\x00" + device))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^0x01 | 0x02
	return mac
}

// EnsureBridge makes the bridge when it is missing, and sees to it that it has the
// hardware address mac, no spanning tree and no forward delay. The explicit address
// keeps it from following that of its ports.
func (k Kernel) EnsureBridge(name string, mac net.HardwareAddr) (changed bool, err error) {
	const op = "make the bridge"
	l, err := byName(op, name)
	if errors.Is(err, ErrNotFound) {
		b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: mac, TxQLen: -1}}
		if err := netlink.LinkAdd(b); err != nil {
			return false, fail(op, name, err)
		}
		changed = true
		l, err = byName(op, name)
	}
	if err != nil {
		return changed, err
	}
	if l.Type() != "bridge" {
		return changed, fail(op, name, fmt.Errorf("a device of type %s has that name", l.Type()))
	}
	plain, err := ensurePlainForwarding(l)
	if err != nil {
		return changed, err
	}
	macChanged, err := ensureMAC(l, mac)
	return changed || plain || macChanged, err
}

// EnsureHostAddressDevice makes the device that only carries an address: a dummy,
// or a bridge without ports where the kernel has no dummy driver. One that exists
// as either is kept.
func (k Kernel) EnsureHostAddressDevice(name string, mac net.HardwareAddr) (changed bool, err error) {
	const op = "make the address device"
	l, err := byName(op, name)
	if err == nil {
		switch l.Type() {
		case "dummy":
			return ensureMAC(l, mac)
		case "bridge":
			return k.EnsureBridge(name, mac)
		}
		return false, fail(op, name, fmt.Errorf("a device of type %s has that name", l.Type()))
	}
	if !errors.Is(err, ErrNotFound) {
		return false, err
	}
	err = netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: mac, TxQLen: -1}})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP):
		// rtnetlink's answer to a kind that is neither built in nor loadable.
		return k.EnsureBridge(name, mac)
	}
	return false, fail(op, name, err)
}

func ensureMAC(l netlink.Link, mac net.HardwareAddr) (bool, error) {
	if mac == nil || bytes.Equal(l.Attrs().HardwareAddr, mac) {
		return false, nil
	}
	if err := netlink.LinkSetHardwareAddr(l, mac); err != nil {
		return false, fail("set the hardware address", l.Attrs().Name, err)
	}
	return true, nil
}

// EnsureMaster makes device a port of bridge.
func (Kernel) EnsureMaster(device, bridge string) (changed bool, err error) {
	const op = "put into the bridge"
	l, err := byName(op, device)
	if err != nil {
		return false, err
	}
	b, err := byName(op, bridge)
	if err != nil {
		return false, err
	}
	if l.Attrs().MasterIndex == b.Attrs().Index {
		return false, nil
	}
	if err := netlink.LinkSetMaster(l, b); err != nil {
		return false, fail(op+" "+bridge+" the port", device, err)
	}
	return true, nil
}

// EnsureUp sets the device up.
func (Kernel) EnsureUp(device string) (changed bool, err error) {
	l, err := byName("set up", device)
	if err != nil || l.Attrs().Flags&net.FlagUp != 0 {
		return false, err
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return false, fail("set up", device, err)
	}
	return true, nil
}

// EnsureMTU sets the device's MTU in bytes.
func (Kernel) EnsureMTU(device string, mtu int) (changed bool, err error) {
	op := fmt.Sprintf("set to %d the MTU", mtu)
	l, err := byName(op, device)
	if err != nil || l.Attrs().MTU == mtu {
		return false, err
	}
	if err := netlink.LinkSetMTU(l, mtu); err != nil {
		return false, fail(op, device, err)
	}
	return true, nil
}

// EnsureAlias writes the device's alias.
func (Kernel) EnsureAlias(device string, alias Alias) (changed bool, err error) {
	const op = "set the alias"
	text := alias.String()
	l, err := byName(op, device)
	if err != nil || l.Attrs().Alias == text {
		return false, err
	}
	if len(text) > MaxAlias {
		return false, fail(op, device, fmt.Errorf("%q has %d bytes, the kernel stores %d", text, len(text), MaxAlias))
	}
	if err := netlink.LinkSetAlias(l, text); err != nil {
		return false, fail(op, device, err)
	}
	return true, nil
}

// Delete removes a device. One that does not exist is no error.
func (Kernel) Delete(device string) error {
	l, err := byName("delete", device)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := netlink.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fail("delete the device", device, err)
	}
	return nil
}
