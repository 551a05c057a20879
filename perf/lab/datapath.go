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

// dataPath is one way to carry packets between the machines.
type dataPath struct {
	name  string
	title string
	// missing says why the path cannot be had on this machine; "" if it can.
	missing func() string
	// up lays the path on a bench. It may answer errUnavailable when only then
	// it turns out that the kernel lacks what it needs.
	up        func(ctx context.Context, b *bench) (endpoints, error)
	encrypted bool // said beside its figures: they pay for something that others do not do
}

// errUnavailable tells that a data path cannot be had on this machine.
var errUnavailable = errors.New("not available on this machine")

// dataPaths in the order in which they are shown.
var dataPaths = []dataPath{
	{name: Veth, title: "plain veth", missing: always, up: upVeth},
	{name: Kernel, title: "kernel VXLAN", missing: always, up: upKernel},
	{name: Userspace, title: "kohaku, userspace", missing: always, up: upUserspace},
	{name: "wireguard-go", title: "wireguard-go", missing: needs("wireguard-go"), up: upWireGuard, encrypted: true},
	{name: "nebula", title: "nebula", missing: needs("nebula", "nebula-cert"), up: upNebula, encrypted: true},
	{name: "openvswitch", title: "Open vSwitch, userspace", missing: ovsMissing, up: upOpenVSwitch},
}

func always() string { return "" }

// DataPaths lists the names that select data paths, and says why some cannot be
// had here.
func DataPaths() (names []string, missing map[string]string) {
	missing = map[string]string{}
	for _, d := range dataPaths {
		names = append(names, d.name)
		if why := d.missing(); why != "" {
			missing[d.name] = why
		}
	}
	return names, missing
}

func dataPathByName(name string) dataPath {
	for _, d := range dataPaths {
		if d.name == name {
			return d
		}
	}
	panic("no data path " + name)
}

// Numbers of the data paths' address ranges, see tunnelled.
const (
	netVeth = 100 + iota
	netKernel
	netUserspace
	netWireGuard
	netNebula
	netOpenVSwitch
)

// upVeth is the underlay itself. Through the hub it needs addresses that are
// reached over it, as neighbours on one switch would leave it out.
func upVeth(_ context.Context, b *bench) (endpoints, error) {
	if b.topology == Hop {
		return endpoints{b.hosts[0].V4, b.hosts[1].V4}, nil
	}
	from := netip.AddrFrom4([4]byte{10, netVeth, 0, 1})
	to := netip.AddrFrom4([4]byte{10, netVeth, 1, 2})
	hub := b.hosts[1]
	for _, r := range []struct {
		at, peer *lab.UnderlayHost
		own, far netip.Addr
	}{{b.hosts[0], b.hosts[2], from, to}, {b.hosts[2], b.hosts[0], to, from}} {
		if err := r.at.AddAddr("lo", netip.PrefixFrom(r.own, 32)); err != nil {
			return endpoints{}, err
		}
		if err := r.at.AddRoute(netip.PrefixFrom(r.far, 32), hub.V4); err != nil {
			return endpoints{}, err
		}
		if err := hub.AddRoute(netip.PrefixFrom(r.own, 32), r.at.V4); err != nil {
			return endpoints{}, err
		}
	}
	return endpoints{from, to}, nil
}

// upKernel uses the kernel's VXLAN device with the settings that a person gets
// who does not ask for others.
func upKernel(_ context.Context, b *bench) (endpoints, error) {
	e, err := b.tunnelled(netKernel, innerMTU(), func(i int, ends []tunnelEnd) error {
		for _, end := range ends {
			err := b.hosts[i].AddKernelVXLAN(lab.KernelVXLAN{
				Name: end.Device, VNI: end.VNI, Local: end.Local, Remote: end.Remote, MTU: end.MTU,
			})
			if err != nil {
				return err
			}
			if err := b.hosts[i].AddAddr(end.Device, end.Address); err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, lab.ErrNoKernelVXLAN) {
		return endpoints{}, fmt.Errorf("%w: %w", errUnavailable, err)
	}
	return e, err
}

// userspacePort is ours, next to the kernel's device, which has the usual one.
const userspacePort = encap.DefaultPort + 1

// upUserspace runs our engine, one process for each machine.
func upUserspace(ctx context.Context, b *bench) (endpoints, error) {
	return b.tunnelled(netUserspace, innerMTU(), func(i int, ends []tunnelEnd) error {
		p, err := b.startAgent(ctx, i)
		if err != nil {
			return err
		}
		b.engines = append(b.engines, p)
		r := &tunnelsRequest{Listen: b.hosts[i].V4, Port: userspacePort, Tunnels: ends}
		if b.profiles != nil {
			r.Profile = b.profiles(b.hosts[i].Name())
		}
		_, err = p.ask(request{Tunnels: r})
		return err
	})
}
