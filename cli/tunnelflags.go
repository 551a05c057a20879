// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/engine"
	"kohaku/tun"
)

// tunnelFlags is the command line of `kohaku tunnel`.
type tunnelFlags struct {
	dev, vni, local, remote, address string
	device, fastPath, pprof          string
	tos, df                          string
	ttl                              uint8
	linger                           time.Duration
	zeroChecksum6, trustKernel       bool
	port                             uint16
	mtu, queues, nice                int
	noTSO, noUSO, noUDPGSO, noUDPGRO bool
	stats                            time.Duration
	asJSON                           bool
	vniValue                         encap.VNI
	localAddr, remoteAddr            netip.Addr
	prefix                           netip.Prefix
	outer                            engine.Outer
}

// check finds what is wrong with the flags before anything is made.
func (f *tunnelFlags) check(command string) (err error) {
	bad := func(flag, value, want string) error {
		return usagef(command, "--%s %s: must be %s", flag, value, want)
	}
	var missing []string
	for _, m := range []struct{ flag, value string }{{"--dev", f.dev}, {"--vni", f.vni}, {"--remote", f.remote}} {
		if m.value == "" {
			missing = append(missing, m.flag)
		}
	}
	if len(missing) > 0 {
		return usagef(command, "missing: %s", strings.Join(missing, ", "))
	}
	if f.vniValue, err = encap.ParseVNI(f.vni); err != nil {
		return usagef(command, "--vni: %v", err)
	}
	if f.remoteAddr, err = netip.ParseAddr(f.remote); err != nil {
		return bad("remote", f.remote, "an IP address")
	}
	if f.local != "" {
		if f.localAddr, err = netip.ParseAddr(f.local); err != nil {
			return bad("local", f.local, "an IP address")
		}
	}
	if f.address != "" {
		if f.prefix, err = netip.ParsePrefix(f.address); err != nil {
			return bad("address", f.address, "ADDRESS/PREFIX, such as 10.9.0.1/24")
		}
	}
	f.outer.TTL = f.ttl
	tos, err := conf.ParseTOS(f.tos)
	if err != nil {
		return usagef(command, "--tos %s: %v", f.tos, err)
	}
	f.outer.TOS, f.outer.InheritTOS = tos.Value, tos.Inherit
	f.outer.DF = f.df == "set"
	switch {
	case f.df != "set" && f.df != "unset":
		return bad("df", f.df, "unset or set")
	case f.linger < 0:
		return bad("linger", f.linger.String(), "0s, or a time such as 100us")
	case f.nice < -20 || f.nice > 19:
		return bad("nice", fmt.Sprint(f.nice), "-20..19")
	case f.device != conf.DeviceTAP && f.device != conf.DeviceTUN:
		return bad("device", f.device, "tap or tun")
	case f.device == conf.DeviceTUN && f.queues > 1:
		return bad("queues", fmt.Sprint(f.queues), "1 with --device tun: such a device has one")
	case f.port == 0:
		return bad("port", "0", "1..65535")
	case f.mtu != 0 && (f.mtu < int(encap.MinInnerMTU) || f.mtu > int(encap.MaxInnerMTU)):
		return bad("mtu", fmt.Sprint(f.mtu), fmt.Sprintf("0 or %d..%d", encap.MinInnerMTU, encap.MaxInnerMTU))
	case f.queues < 0 || f.queues > tun.MaxQueues:
		return bad("queues", fmt.Sprint(f.queues), fmt.Sprintf("0..%d", tun.MaxQueues))
	case f.fastPath != conf.FastPathAuto && f.fastPath != conf.FastPathOff:
		return bad("fastpath", f.fastPath, "auto or off")
	case f.stats < 0:
		return bad("stats", f.stats.String(), "a positive duration")
	case f.pprof != "" && !loopbackOnly(f.pprof):
		return bad("pprof", f.pprof, "a loopback address, such as 127.0.0.1:6060")
	}
	return nil
}
