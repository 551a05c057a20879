// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// nebulaMTU is what fits an underlay of 1500: less 20 B of IPv4, 8 of UDP, 16
	// of nebula's header and 16 of the seal.
	nebulaMTU  = 1440
	nebulaPort = 4242
)

// upNebula runs nebula, one process for each end of a tunnel: every tunnel is a
// nebula network of its own, so that through the hub packets go through the hub,
// where one network would find the direct way.
func upNebula(ctx context.Context, b *bench) (endpoints, error) {
	dir, err := b.workspace("nebula")
	if err != nil {
		return endpoints{}, err
	}
	ca := filepath.Join(dir, "ca")
	if err := b.tell(ctx, 0, nil, "nebula-cert", "ca", "-name", "lab", "-out-crt", ca+".crt", "-out-key", ca+".key"); err != nil {
		return endpoints{}, err
	}
	return b.tunnelled(netNebula, nebulaMTU, func(i int, ends []tunnelEnd) error {
		for _, end := range ends {
			if err := b.startNebula(ctx, i, end, dir, ca); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *bench) startNebula(ctx context.Context, i int, end tunnelEnd, dir, ca string) error {
	link := int(end.VNI - vni(0))
	name := fmt.Sprintf("m%dl%d", i, link)
	own := filepath.Join(dir, name)
	if err := os.Mkdir(own, 0o700); err != nil {
		return err
	}
	cert := filepath.Join(own, "host")
	sign := []string{"sign", "-name", name, "-ip", end.Address.String(), "-ca-crt", ca + ".crt", "-ca-key", ca + ".key", "-out-crt", cert + ".crt", "-out-key", cert + ".key"}
	peer := otherEnd(end.Address)
	far := ""
	if len(b.hosts) == 3 {
		// The network behind the hub: the hub's certificate allows it to speak for
		// it, the machine at the end routes to it. The route that tunnelled makes is
		// the better one, with the same effect.
		beyond := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, netNebula, byte(1 - link), 0}), 24)
		if i == 1 {
			sign = append(sign, "-subnets", beyond.String())
		} else {
			far = fmt.Sprintf("  unsafe_routes:\n    - {route: %v, via: %v, mtu: %d, metric: 1000}\n", beyond, peer, end.MTU)
		}
	}
	if err := b.tell(ctx, i, nil, "nebula-cert", sign...); err != nil {
		return err
	}
	config := filepath.Join(own, "config.yml")
	port := nebulaPort + link
	err := os.WriteFile(config, fmt.Appendf(nil, `pki: {ca: %[1]s.crt, cert: %[2]s.crt, key: %[2]s.key}
static_host_map: {"%[3]v": ["%[4]v:%[5]d"]}
lighthouse: {am_lighthouse: false}
listen: {host: %[6]v, port: %[5]d}
tun:
  dev: %[7]s
  mtu: %[8]d
%[9]slogging: {level: warning}
firewall:
  outbound: [{port: any, proto: any, host: any}]
  inbound: [{port: any, proto: any, host: any}]
`, ca, cert, peer, end.Remote, port, end.Local, end.Device, end.MTU, far), 0o600)
	if err != nil {
		return err
	}
	p, err := b.start(ctx, i, own, nil, "nebula", "-config", config)
	if err != nil {
		return err
	}
	// It gives the device its address and sets it up by itself.
	return p.until(ctx, "its device does not come up", func() error { return b.hasAddress(i, end.Address.Addr()) })
}

// hasAddress is an error until machine i has the address.
func (b *bench) hasAddress(i int, a netip.Addr) error {
	return b.hosts[i].Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: a.As4()})
	})
}

// otherEnd gives the peer's address on a tunnel, whose ends are .1 and .2.
func otherEnd(own netip.Prefix) netip.Addr {
	a := own.Addr().As4()
	a[3] = 3 - a[3]
	return netip.AddrFrom4(a)
}
