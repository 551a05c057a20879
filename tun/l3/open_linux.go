// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"kohaku/tun"
)

// create is wireguard's CreateTUN with the descriptor opened here, so that it
// is closed when the interface cannot be had, and so that the error says why.
func create(name string, mtu int) (wgtun.Device, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil || name == "" {
		return nil, fmt.Errorf("a device's name has 1 to %d bytes", unix.IFNAMSIZ-1)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explain(err)
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		_ = unix.Close(fd) // the first error is the one to tell
		return nil, explain(err)
	}
	f := os.NewFile(uintptr(fd), "/dev/net/tun") // non-blocking, so known to the poller
	dev, err := wgtun.CreateTUNFromFile(f, mtu)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return dev, nil
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
		return fmt.Errorf("%w: a device of that name exists and is not a TUN; delete it or choose another name", err)
	}
	return err
}
