// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"kohaku/encap"
	"kohaku/internal/endpoint"
	"kohaku/perf"
)

// userspaceFlags are those of perf client --userspace: one end of a tunnel in
// the process, with a TCP/IP stack of its own.
type userspaceFlags struct {
	on                                   bool
	vni, local, remote, address, gateway string
	port                                 uint16
	mtu                                  int
	cfg                                  endpoint.Config
}

func (u *userspaceFlags) define(c *cobra.Command) {
	fl := c.Flags()
	fl.BoolVar(&u.on, "userspace", false, "be a machine on the overlay inside this process: no device, no root")
	fl.StringVar(&u.vni, "vni", "", "--userspace: the tunnel's `NUMBER`")
	fl.StringVar(&u.remote, "remote", "", "--userspace: the peer's `ADDRESS` on the underlay")
	fl.StringVar(&u.local, "local", "", "--userspace: own `ADDRESS` on the underlay (else: routing decides)")
	fl.StringVar(&u.address, "address", "", "--userspace: own `ADDRESS/PREFIX` on the overlay")
	fl.StringVar(&u.gateway, "gateway", "", "--userspace: `ADDRESS` on the overlay that leads to the rest of it")
	fl.Uint16Var(&u.port, "vxlan-port", encap.DefaultPort, "--userspace: UDP `PORT` of the tunnel, at both ends")
	fl.IntVar(&u.mtu, "mtu", 0, "--userspace: overlay MTU in `BYTES` (else: what the route to the peer leaves)")
}

// largestUserspaceUDP is the payload of a datagram where nothing tells: it fits
// an overlay on an underlay of 1500, IPv6 too.
const largestUserspaceUDP = 1400

// check reads the flags into what makes the endpoint, and adapts the test.
func (u *userspaceFlags) check(c *cobra.Command, cfg *perf.ClientConfig) (err error) {
	own := []string{"vni", "remote", "local", "address", "gateway", "vxlan-port", "mtu"}
	if !u.on {
		for _, name := range own {
			if c.Flags().Changed(name) {
				return usagef(c.CommandPath(), "--%s belongs to --userspace", name)
			}
		}
		return nil
	}
	var missing []string
	for _, m := range []struct{ flag, value string }{{"--vni", u.vni}, {"--remote", u.remote}, {"--address", u.address}} {
		if m.value == "" {
			missing = append(missing, m.flag)
		}
	}
	if len(missing) > 0 {
		return usagef(c.CommandPath(), "--userspace: missing: %s", strings.Join(missing, ", "))
	}
	e := endpoint.Config{Port: u.port, MTU: u.mtu, UDPGSO: true, UDPGRO: true}
	if e.VNI, err = encap.ParseVNI(u.vni); err != nil {
		return usagef(c.CommandPath(), "--vni: %v", err)
	}
	for _, a := range []struct {
		flag, text string
		into       *netip.Addr
	}{{"remote", u.remote, &e.Remote}, {"local", u.local, &e.Local}} {
		if a.text == "" {
			continue
		}
		if *a.into, err = netip.ParseAddr(a.text); err != nil {
			return usagef(c.CommandPath(), "--%s %s: must be an IP address", a.flag, a.text)
		}
	}
	address, err := netip.ParsePrefix(u.address)
	if err != nil {
		return usagef(c.CommandPath(), "--address %s: must be ADDRESS/PREFIX, such as 10.9.0.1/24", u.address)
	}
	e.Addrs = []netip.Prefix{address}
	if u.gateway != "" {
		gw, err := netip.ParseAddr(u.gateway)
		if err != nil {
			return usagef(c.CommandPath(), "--gateway %s: must be an IP address", u.gateway)
		}
		e.Gateways = []netip.Addr{gw}
	}
	if u.mtu != 0 && (u.mtu < 576 || u.mtu > 65471) {
		return usagef(c.CommandPath(), "--mtu %d: must be 576 to 65471", u.mtu)
	}
	if cfg.Local.IsValid() {
		return usagef(c.CommandPath(), "--bind does not apply with --userspace: --address is the own address")
	}
	if _, err := netip.ParseAddr(cfg.Server); err != nil {
		if _, err := netip.ParseAddrPort(cfg.Server); err != nil {
			return usagef(c.CommandPath(), "%s: with --userspace the server must be given as an IP address on the overlay", cfg.Server)
		}
	}
	if cfg.UDP && cfg.Mode == perf.Throughput && cfg.Length == 0 {
		cfg.Length = largestUserspaceUDP
		if u.mtu != 0 {
			cfg.Length = u.mtu - 28 // headers of IPv4 and UDP
		}
	}
	u.cfg = e
	return nil
}

// open makes the endpoint and lets the test run through it; close ends it.
func (u *userspaceFlags) open(cfg *perf.ClientConfig) (close func(), err error) {
	if !u.on {
		return func() {}, nil
	}
	e, err := endpoint.Open(u.cfg)
	if err != nil {
		return nil, &failure{
			tried: "be an end of the tunnel", cause: err,
			next: "where a daemon or a kernel VXLAN device has the port, choose another with --vxlan-port, at both ends",
		}
	}
	cfg.Dial = e.DialContext
	return func() { e.Close() }, nil
}
