// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package l3

import (
	"errors"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

func create(name string, o *Options) (wgtun.Device, error) {
	if o.Persist {
		return nil, errors.New("only Linux has TUN interfaces that outlive their process")
	}
	return wgtun.CreateTUN(name, o.MTU)
}
