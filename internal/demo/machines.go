// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"kohaku/conf"
	"kohaku/internal/lab"
)

// Machines of the underlay, in the order of their addresses from 192.0.2.1.
const (
	theHost = iota
	runner1
	runner2
	outside
)

var machineNames = []string{theHost: "host", runner1: "runner-1", runner2: "runner-2", outside: "outside"}

// container is a namespace with one cable to a Runner's bridge, as Docker makes
// them.
type container struct {
	*lab.Node
	addr   netip.Addr
	runner *lab.UnderlayHost
}

// containerHost is the last byte of a container's address.
const containerHost = 2

func (r *run) makeMachines(ctx context.Context) ([]string, error) {
	u, err := r.net.Underlay(ctx, lab.UnderlayConfig{Names: machineNames})
	if err != nil {
		return nil, err
	}
	r.underlay = u
	return []string{fmt.Sprintf("host %s, runner-1 %s, runner-2 %s; outside %s, which has no route to %s",
		u.Hosts[theHost].V4, u.Hosts[runner1].V4, u.Hosts[runner2].V4, u.Hosts[outside].V4,
		conf.DefaultHost().Overlay.Subnet.Overlay())}, nil
}

// attachContainers plugs a container into each Runner's bridge. Its address
// comes from the subnet that the Host gave to the Runner.
func (r *run) attachContainers(ctx context.Context) ([]string, error) {
	s, err := r.askStatus(ctx)
	if err != nil {
		return nil, err
	}
	var detail []string
	for i, machine := range []int{runner1, runner2} {
		m := r.underlay.Hosts[machine]
		c := &container{runner: m}
		var gateway netip.Addr
		for _, a := range s.Allocations {
			if a.RunnerName == m.Name() {
				gateway = a.Gateway
				b := a.Subnet.Masked().Addr().As4()
				b[3] = containerHost
				c.addr = netip.AddrFrom4(b)
				if c.Node, err = r.net.Node(fmt.Sprintf("container-%d", i+1)); err != nil {
					return detail, err
				}
				if err := c.plugIn(netip.PrefixFrom(c.addr, a.Subnet.Bits()), gateway); err != nil {
					return detail, err
				}
			}
		}
		if c.Node == nil {
			return detail, fmt.Errorf("the Host has no allocation for %s", m.Name())
		}
		if err := c.WaitUp(ctx, "eth0"); err != nil {
			return detail, err
		}
		r.ends = append(r.ends, c)
		detail = append(detail, fmt.Sprintf("%s has %s, gateway %s, on %s of %s",
			c.Name(), c.addr, gateway, conf.BridgeDevice, m.Name()))
	}
	return detail, nil
}

// plugIn lays the cable; its MTU is the bridge's, as Docker does it.
func (c *container) plugIn(addr netip.Prefix, gateway netip.Addr) error {
	bridge, err := lab.Port{Node: c.runner.Node, Name: conf.BridgeDevice}.Link()
	if err != nil {
		return err
	}
	_, end, err := lab.Connect(c.Node, "eth0", c.runner.Node, "veth-"+strings.TrimPrefix(c.Name(), "container-"), bridge.Attrs().MTU)
	if err != nil {
		return err
	}
	if err := c.runner.AddPort(conf.BridgeDevice, end.Name); err != nil {
		return err
	}
	if err := c.AddAddr("eth0", addr); err != nil {
		return err
	}
	return c.AddRoute(netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway)
}
