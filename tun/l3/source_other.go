// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package l3

import wgtun "golang.zx2c4.com/wireguard/tun"

func newSource(r reader, dev wgtun.Device) source { return newPump(r, dev.BatchSize()) }
