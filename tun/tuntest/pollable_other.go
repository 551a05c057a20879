// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package tuntest

import "kohaku/tun"

func newPollable(*queue) tun.Queue { panic("tuntest: descriptors need Linux") }
