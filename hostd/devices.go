// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"kohaku/conf"
	"kohaku/internal/dataplane"
	"kohaku/internal/link"
)

// ensureHostDevice keeps the device with the Host's overlay address.
func (h *Host) ensureHostDevice() error {
	const device = conf.HostAddressDevice
	if _, err := h.links.EnsureHostAddressDevice(device, link.StableMAC(h.opts.MachineID, device)); err != nil {
		return err
	}
	info, err := h.links.Device(device)
	if err != nil {
		return err
	}
	// Read before the alias is overwritten: it tells of an earlier plan.
	stale := link.Stale(h.plan, info.Alias)
	if _, err := h.links.EnsureAddrs(device, []netip.Prefix{h.plan.HostPrefix()}, stale); err != nil {
		return err
	}
	if _, err := h.links.EnsureAlias(device, link.Alias{Subnet: h.plan}); err != nil {
		return err
	}
	_, err = h.links.EnsureUp(device)
	return err
}

// ensureMachine keeps forwarding and the firewall. What fails is a problem, not an
// end: tunnels may work regardless.
func (h *Host) ensureMachine() {
	// A frame goes out by the device of another runner, never by the one it came
	// in by, so the kernel has nothing to redirect; send_redirects stays as it is.
	_, err := h.links.EnsureSysctl("net/ipv4/ip_forward", "1")
	h.problems.Set("forwarding", err)
	h.ensureFirewall()
}

// alias is what a runner's device says about itself. One that is nobody's names no
// runner.
func (h *Host) alias(r *runner) link.Alias {
	a := link.Alias{
		VNI: uint32(h.vni(r.ID)), Remote: r.remote, Runner: r.Name, Machine: r.Machine,
		Subnet: h.plan, ID: r.ID, Port: h.cfg.Overlay.VXLANPort,
	}
	if r.unclaimed() {
		a.Runner = ""
	}
	return a
}

// macOf is the MAC of a runner's device when that is made.
func (h *Host) macOf(r *runner) net.HardwareAddr {
	if r.mac != nil {
		return r.mac
	}
	return link.StableMAC(h.opts.MachineID, r.device)
}

func (h *Host) peer(r *runner) dataplane.Peer {
	p := dataplane.Peer{Remote: r.remote, Local: r.local}
	if h.cfg.Engine.AntiSpoof {
		p.Sources = []netip.Prefix{h.plan.Subnet(r.ID)}
	}
	return p
}

// build brings a runner's device and tunnel up, or up to date. Guarded by mu.
func (h *Host) build(r *runner) error {
	if r.tunnel {
		if err := h.plane.Update(h.vni(r.ID), h.peer(r)); err != nil {
			return fmt.Errorf("change the VXLAN tunnel to %s: %w", r.Name, err)
		}
		return h.dress(r)
	}
	device, err := dataplane.Open(h.opts.Machine, h.links, h.log,
		dataplane.Device{
			Kind: h.cfg.Engine.Device, Name: r.device, MTU: r.mtu, MAC: h.macOf(r),
			Addrs: []netip.Addr{h.plan.HostOn(r.ID), h.plan.HostAddr()},
		})
	if err != nil {
		return err
	}
	// The alias comes right after the device: from here on a crash leaves
	// something behind that the next start understands.
	if err := h.dress(r); err != nil {
		device.Close()
		return err
	}
	if err := h.plane.Add(dataplane.Tunnel{VNI: h.vni(r.ID), Peer: h.peer(r), Device: device}); err != nil {
		device.Close()
		return fmt.Errorf("add the VXLAN tunnel to %s at %s: %w", r.Name, r.remote, err)
	}
	r.tunnel = true
	h.wakeFirewall()
	h.log.Info("VXLAN tunnel is up", "runner", r.Name, "id", r.ID, "device", r.device, "vni", h.vni(r.ID), "remote", r.remote, "mtu", r.mtu)
	return nil
}

// dress gives a runner's device everything but its tunnel.
func (h *Host) dress(r *runner) error {
	info, err := h.links.Device(r.device)
	if err != nil {
		return err
	}
	stale := link.Stale(h.plan, info.Alias)
	if _, err := h.links.EnsureAlias(r.device, h.alias(r)); err != nil {
		return err
	}
	if _, err := h.links.EnsureMTU(r.device, r.mtu); err != nil {
		return err
	}
	// Containers are not to steer the Host's own routing.
	for _, path := range []string{"net/ipv6/conf/" + r.device + "/accept_ra", "net/ipv4/conf/" + r.device + "/accept_redirects"} {
		if _, err := h.links.EnsureSysctl(path, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.problems.Set("sysctl", err)
		}
	}
	if _, err := h.links.EnsureAddrs(r.device, []netip.Prefix{h.address(r)}, stale); err != nil {
		return err
	}
	if !info.Up {
		if _, err := h.links.EnsureNoQueue(r.device); err != nil {
			h.log.Debug("the VXLAN device keeps its queueing discipline, which only costs memory", "device", r.device, "error", err)
		}
	}
	_, err = h.links.EnsureUp(r.device)
	return err
}

// address is the Host's on the runner's subnet.
func (h *Host) address(r *runner) netip.Prefix {
	return netip.PrefixFrom(h.plan.HostOn(r.ID), h.plan.Subnet(r.ID).Bits())
}

// dressed reports whether a device, as listed, needs nothing of dress.
func (h *Host) dressed(r *runner, info link.Info) bool {
	stale := link.Stale(h.plan, info.Alias)
	return info.Up && info.MTU == r.mtu && info.Alias == h.alias(r).String() &&
		slices.Contains(info.Addrs, h.address(r)) &&
		!slices.ContainsFunc(info.Addrs, func(p netip.Prefix) bool { return p != h.address(r) && stale(p) })
}

// destroy removes a runner's tunnel and device. Guarded by mu.
func (h *Host) destroy(r *runner) error {
	err := h.plane.Remove(h.vni(r.ID))
	r.tunnel = false
	delete(h.runners, r.ID)
	h.problems.Clear(problemKey(r))
	h.problems.Clear(problemKey(r) + " mtu")
	h.problems.Clear(problemKey(r) + " unclaimed")
	if info, look := h.links.Device(r.device); look == nil && link.IsOurs(info.Alias) {
		err = errors.Join(err, h.links.Delete(r.device))
	}
	return err
}

func problemKey(r *runner) string { return "runner " + strconv.Itoa(r.ID) }
