// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"log/slog"

	"kohaku/internal/link"
	"kohaku/tun"
)

// Devices looks at devices and deletes them; link.Kernel does.
type Devices interface {
	Device(name string) (link.Info, error)
	Delete(name string) error
}

// Open opens a tunnel device of ours, new or left by an earlier run. One of ours
// that cannot be taken over, because it is of another type or was made with other
// flags, is made anew. One that is not ours is left alone: the error is a
// *link.ForeignError.
func Open(m Machine, k Devices, log *slog.Logger, want Device) (tun.Device, error) {
	info, err := k.Device(want.Name)
	exists := err == nil
	if err != nil && !errors.Is(err, link.ErrNotFound) {
		return nil, err
	}
	if exists && !info.OursAs(want.kind()) {
		return nil, &link.ForeignError{Device: info}
	}
	if exists && len(info.MAC) == 6 && !info.Bare() {
		want.MAC = info.MAC // others have it in their neighbour tables
	}
	var device tun.Device
	if !exists || info.Type == want.kind() {
		device, err = m.OpenDevice(want)
		// Any other failure may pass, and the device's alias is worth keeping.
		if !exists || !errors.Is(err, tun.ErrNotTAP) {
			return device, err
		}
	}
	log.Warn("a VXLAN device of ours cannot be taken over and is made anew",
		"device", want.Name, "type", info.Type, "wanted", want.kind(), "error", err)
	if err := k.Delete(want.Name); err != nil {
		return nil, err
	}
	return m.OpenDevice(want)
}
