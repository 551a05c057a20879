// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"fmt"
	"net/netip"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/internal/api"
	"kohaku/internal/link"
)

// shape is everything that decides how the Runner's end looks. It is comparable;
// the zero value is nothing at all.
type shape struct {
	id     int
	plan   conf.Plan
	vni    encap.VNI
	port   uint16
	remote netip.Addr // the Host's end on the underlay
	local  netip.Addr // the Runner's; zero: routing decides
	mtu    int        // overlay, bytes
}

// shapeOf checks what the Host answered. local is the address that was registered.
func shapeOf(a api.RegisterAnswer, local netip.Addr) (shape, error) {
	bad := func(field string, value any) (shape, error) {
		return shape{}, fmt.Errorf("the Host's answer makes no sense: %s = %v (is it of the same version?)", field, value)
	}
	plan, err := conf.ParsePlan(a.SubnetConfig)
	remote := a.HostPhysicalIP.Unmap()
	switch {
	case err != nil:
		return bad("subnet_config", err)
	case a.RunnerID < 1 || a.RunnerID > plan.MaxRunners():
		return bad("runner_id", a.RunnerID)
	case a.Subnet != plan.Subnet(a.RunnerID):
		return bad("subnet", a.Subnet)
	case a.Gateway != plan.Gateway(a.RunnerID):
		return bad("gateway", a.Gateway)
	case a.HostOnSubnet != plan.HostOn(a.RunnerID):
		return bad("host_on_subnet", a.HostOnSubnet)
	case a.VNI == 0 || !encap.VNI(a.VNI).Valid():
		return bad("vni", a.VNI)
	case a.VXLANPort == 0:
		return bad("vxlan_port", a.VXLANPort)
	case a.MTU < int(encap.MinInnerMTU) || a.MTU > int(encap.MaxInnerMTU):
		return bad("mtu", a.MTU)
	case !remote.IsValid() || remote.IsUnspecified() || remote.IsMulticast() || plan.Overlay().Contains(remote):
		return bad("host_physical_ip", a.HostPhysicalIP)
	case a.Interval() <= 0:
		return bad("heartbeat_interval", a.HeartbeatInterval)
	}
	return shape{
		id: a.RunnerID, plan: plan, vni: encap.VNI(a.VNI), port: a.VXLANPort, remote: remote, local: local, mtu: a.MTU,
	}, nil
}

// shapeFrom reads the shape that an earlier run left in the tunnel device.
func shapeFrom(info link.Info) (shape, error) {
	a, err := link.ParseAlias(info.Alias)
	if err != nil {
		return shape{}, err
	}
	if a.VNI == 0 || !a.Remote.IsValid() || !a.Subnet.IsValid() || a.ID < 1 || a.ID > a.Subnet.MaxRunners() || a.Port == 0 {
		return shape{}, fmt.Errorf("the alias %q does not tell all that a tunnel needs", info.Alias)
	}
	if info.MTU < int(encap.MinInnerMTU) || info.MTU > int(encap.MaxInnerMTU) {
		return shape{}, fmt.Errorf("the device has an MTU of %d", info.MTU)
	}
	return shape{id: a.ID, plan: a.Subnet, vni: encap.VNI(a.VNI), port: a.Port, remote: a.Remote, mtu: info.MTU}, nil
}

func (s shape) gateway() netip.Prefix {
	return netip.PrefixFrom(s.plan.Gateway(s.id), s.plan.Subnet(s.id).Bits())
}

// bridgeAlias and tunnelAlias are what the two devices say about themselves.
func (r *Runner) bridgeAlias(s shape) link.Alias {
	return link.Alias{Runner: r.name, Machine: r.opts.MachineID, Subnet: s.plan, ID: s.id}
}

func (r *Runner) tunnelAlias(s shape) link.Alias {
	a := r.bridgeAlias(s)
	a.VNI, a.Remote, a.Port = uint32(s.vni), s.remote, s.port
	return a
}
