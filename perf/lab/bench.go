// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"kohaku/encap"
	"kohaku/internal/lab"
)

// underlayMTU is the usual Ethernet's.
const underlayMTU = 1500

// bench is one topology, standing, with all data paths side by side.
type bench struct {
	topology string
	profile  string
	program  []string
	profiles func(node string) string // file for a processor profile; nil: none
	net      *lab.Net
	hosts    []*lab.UnderlayHost // from, [host,] to
	cpus     [][]int             // for each of hosts: where its programs run; empty: anywhere
	load     []*process          // one for each of hosts: generates and answers load
	engines  []*process
	others   []func() error // what else is to be ended, last first
}

// endpoints are the addresses between which a data path is measured.
type endpoints struct{ from, to netip.Addr }

// newBench makes the machines and starts their agents.
func newBench(ctx context.Context, o *Options, topology, profile string) (_ *bench, err error) {
	b := &bench{topology: topology, profile: profile, program: o.Program}
	if o.ProfileDir != "" {
		b.profiles = func(node string) string {
			return fmt.Sprintf("%s/%s.pprof", o.ProfileDir, node)
		}
	}
	if b.net, err = lab.NewNet(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	names := []string{"runner1", "runner2"}
	if topology == Hub {
		names = []string{"runner1", "host", "runner2"}
	}
	for i := range names {
		names[i] = b.node(names[i])
	}
	u, err := b.net.Underlay(ctx, lab.UnderlayConfig{
		Names: names, MTU: underlayMTU, Profile: lab.Profile(profile), Switch: b.node("switch"),
	})
	if err != nil {
		return nil, err
	}
	b.hosts = u.Hosts
	b.cpus = make([][]int, len(b.hosts))
	if !o.Unplaced {
		cpus, err := processors()
		if err != nil {
			return nil, err
		}
		for i := range b.hosts {
			b.cpus[i] = place(cpus, i, len(b.hosts))
		}
	}
	for i, h := range b.hosts {
		// The machine's own settings are inherited, and may break routing through the hub.
		for _, s := range [][2]string{
			{"net.ipv4.conf.all.rp_filter", "0"}, {"net.ipv4.conf.default.rp_filter", "0"}, {"net.ipv4.conf.eth0.rp_filter", "0"},
			{"net.ipv4.conf.all.send_redirects", "0"}, {"net.ipv4.conf.default.send_redirects", "0"}, {"net.ipv4.conf.eth0.send_redirects", "0"},
			{"net.ipv4.ip_forward", "1"},
		} {
			if err := h.Sysctl(s[0], s[1]); err != nil {
				return nil, err
			}
		}
		if o.Congestion != "" {
			if err := h.Sysctl("net.ipv4.tcp_congestion_control", o.Congestion); err != nil {
				return nil, err
			}
		}
		p, err := b.startAgent(ctx, i)
		if err != nil {
			return nil, err
		}
		b.load = append(b.load, p)
	}
	return b, nil
}

// node names a machine: benches stand side by side, and the names of all their
// machines are in one directory.
func (b *bench) node(name string) string { return b.profile + "-" + b.topology + "-" + name }

func (b *bench) first() *process { return b.load[0] }
func (b *bench) last() *process  { return b.load[len(b.load)-1] }

// serve starts a server on an address of the last machine.
func (b *bench) serve(a netip.Addr) error {
	_, err := b.last().ask(request{Serve: &serveRequest{Address: a}})
	return err
}

// close ends every process and the machines.
func (b *bench) close() error {
	var errs []error
	for _, list := range [][]*process{b.load, b.engines} {
		for _, p := range list {
			errs = append(errs, p.stop())
		}
	}
	for i := len(b.others) - 1; i >= 0; i-- {
		errs = append(errs, b.others[i]())
	}
	return errors.Join(append(errs, b.net.Close())...)
}

// vni gives the tunnel between machine i and i+1 a number of its own.
func vni(i int) uint32 { return uint32(1000 + i) }

// innerMTU is what a VXLAN tunnel leaves.
func innerMTU() int {
	m, err := encap.UnderlayMTU(underlayMTU).Inner(false)
	if err != nil {
		panic(err) // 1500 is a legal MTU
	}
	return int(m)
}

// tunnelled lays tunnels between neighbours and routes over them. net numbers
// the data path: its addresses are 10.net.LINK.0/24. attach makes the devices of
// one machine, with their addresses, and sets them up.
func (b *bench) tunnelled(net int, mtu int, attach func(i int, ends []tunnelEnd) error) (endpoints, error) {
	addr := func(link, host int) netip.Addr {
		return netip.AddrFrom4([4]byte{10, byte(net), byte(link), byte(host)})
	}
	links := len(b.hosts) - 1
	for i, h := range b.hosts {
		var ends []tunnelEnd
		end := func(link, peer, self int) {
			ends = append(ends, tunnelEnd{
				Device: fmt.Sprintf("t%dl%d", net, link), VNI: vni(link), MTU: mtu,
				Local: h.V4, Remote: b.hosts[peer].V4, Address: netip.PrefixFrom(addr(link, self), 24),
			})
		}
		if i > 0 {
			end(i-1, i-1, 2)
		}
		if i < links {
			end(i, i+1, 1)
		}
		if err := attach(i, ends); err != nil {
			return endpoints{}, err
		}
	}
	if links == 2 {
		if err := b.hosts[0].AddRoute(netip.PrefixFrom(addr(1, 0), 24), addr(0, 2)); err != nil {
			return endpoints{}, err
		}
		if err := b.hosts[2].AddRoute(netip.PrefixFrom(addr(0, 0), 24), addr(1, 1)); err != nil {
			return endpoints{}, err
		}
	}
	return endpoints{from: addr(0, 1), to: addr(links-1, 2)}, nil
}
