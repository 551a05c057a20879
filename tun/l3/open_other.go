// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package l3

import wgtun "golang.zx2c4.com/wireguard/tun"

func create(name string, mtu int) (wgtun.Device, error) { return wgtun.CreateTUN(name, mtu) }
