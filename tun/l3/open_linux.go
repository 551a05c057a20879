// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"kohaku/tun"
)

// create is wireguard's CreateTUN with the descriptor opened here, so that it
// is closed when the interface cannot be had, and so that the error says why.
func create(name string, o *Options) (dev wgtun.Device, err error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil || name == "" {
		return nil, fmt.Errorf("a device's name has 1 to %d bytes", unix.IFNAMSIZ-1)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explain(err)
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if !o.NoOffloads {
		flags |= unix.IFF_VNET_HDR
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		_ = unix.Close(fd) // the first error is the one to tell
		return nil, explain(err)
	}
	// Non-blocking, so known to Go's poller; not earlier, since a descriptor
	// without an interface has nothing to wait on.
	f := os.NewFile(uintptr(fd), "/dev/net/tun")
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := reset(fd); err != nil {
		return nil, err
	}
	if err := limitSegments(name); err != nil {
		return nil, err
	}
	if dev, err = wgtun.CreateTUNFromFile(f, o.MTU); err != nil {
		return nil, err
	}
	persist := 0
	if o.Persist {
		persist = 1
	}
	// When all else went well, so that nothing half-made stays.
	if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, persist); err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("set persistence: %w", err)
	}
	return dev, nil
}

// reset undoes what an owner before us may have set. Offloads and the header's
// length belong to the interface and outlive who set them (drivers/net/tun.c).
func reset(fd int) error {
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0); err != nil {
		return fmt.Errorf("set offloads: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHdrLen); err != nil {
		return fmt.Errorf("set the length of the virtio header: %w", err)
	}
	return nil
}

// vnetHdrLen is the length of virtio's net header as wireguard reads it.
const vnetHdrLen = 10

// limitSegments keeps the kernel from passing super-frames of more segments than
// a batch has room for, since wireguard's TUN would drop the rest. The kernel cuts
// those itself (net/core/dev.c, gso_features_check). A super-frame whose origin is
// another TUN or TAP is not counted there; those have no more than a batch, since
// that is how they were made.
func limitSegments(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetGSOMaxSegs(l, fullBatch)
	}
	if err != nil {
		return fmt.Errorf("set gso_max_segs %d: %w", fullBatch, err)
	}
	return nil
}

func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: the kernel has no TUN/TAP driver here; load it (modprobe tun) or make /dev/net/tun available", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: /dev/net/tun is closed to this user; run as root, or give it its usual mode (chmod 0666 /dev/net/tun)", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: creating a device needs CAP_NET_ADMIN; run as root", err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%w: is a kohaku daemon running already? (%w)", tun.ErrInUse, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: it is not a TUN; delete it or choose another name (%w)", tun.ErrNotTAP, err)
	}
	return err
}
