// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"errors"
	"io/fs"
	"net/netip"

	"kohaku/conf"
	"kohaku/internal/firewall"
	"kohaku/internal/link"
)

// build makes this machine's end of the overlay look like s, whatever it was
// before. Guarded by mu.
func (r *Runner) build(s shape) error {
	if s.plan != r.shape.plan || !r.built {
		uses, err := r.links.Uses(link.OurName)
		if err != nil {
			return err
		}
		if err := link.CheckOverlap(s.plan, uses); err != nil {
			return err
		}
	}
	if was := r.shape; was.id != 0 && (was.plan != s.plan || was.id != s.id) {
		r.log.Warn("the subnet of this Runner has changed: running containers have addresses of the old one and must be made anew",
			"was", was.plan.Subnet(was.id), "is", s.plan.Subnet(s.id))
	}
	r.shape = s
	if err := r.ensureBridge(s); err != nil {
		return err
	}
	if err := r.ensureTunnelAlone(s); err != nil {
		return err
	}
	if err := r.ensureUp(s); err != nil {
		return err
	}
	r.built = true
	r.keepPorts()
	r.serveContainers(s)
	return nil
}

func (r *Runner) ensureBridge(s shape) error {
	const bridge = conf.BridgeDevice
	if err := r.clearBridgeName(); err != nil {
		return err
	}
	changed, err := r.links.EnsureBridge(bridge, link.StableMAC(r.opts.MachineID, bridge))
	if err != nil {
		return err
	}
	info, err := r.links.Device(bridge)
	if err != nil {
		return err
	}
	if changed {
		r.fresh = true
	}
	if changed && r.built && info.Alias == "" {
		r.log.Warn("the bridge was gone and is made anew", "device", bridge)
	}
	// The stale addresses go before the alias that tells of them.
	stale := link.Stale(s.plan, info.Alias)
	if _, err := r.links.EnsureAddrs(bridge, []netip.Prefix{s.gateway()}, stale); err != nil {
		return err
	}
	if _, err := r.links.EnsureAlias(bridge, r.bridgeAlias(s)); err != nil {
		return err
	}
	_, err = r.links.EnsureMTU(bridge, s.mtu)
	return err
}

// dressTunnel gives the tunnel device everything but its tunnel.
func (r *Runner) dressTunnel(s shape) error {
	const device = conf.RunnerTunnelDevice
	if _, err := r.links.EnsureAlias(device, r.tunnelAlias(s)); err != nil {
		return err
	}
	if _, err := r.links.EnsureMTU(device, s.mtu); err != nil {
		return err
	}
	// A bridge port needs no addresses of its own, nor their chatter.
	r.sysctl("net/ipv6/conf/"+device+"/disable_ipv6", "1")
	if info, err := r.links.Device(device); err == nil && !info.Up {
		if _, err := r.links.EnsureNoQueue(device); err != nil {
			r.log.Debug("the VXLAN device keeps its queueing discipline, which only costs memory", "device", device, "error", err)
		}
	}
	_, err := r.links.EnsureMaster(device, conf.BridgeDevice)
	return err
}

func (r *Runner) ensureUp(s shape) error {
	for _, device := range []string{conf.RunnerTunnelDevice, conf.BridgeDevice} {
		if _, err := r.links.EnsureUp(device); err != nil {
			return err
		}
	}
	_, err := r.links.EnsureRoute(conf.BridgeDevice, s.plan.Overlay(), s.plan.HostOn(s.id))
	return err
}

// ensureMachine keeps forwarding and the firewall. What fails is a problem, not an
// end: tunnels may work regardless.
func (r *Runner) ensureMachine(s shape) {
	const bridge = conf.BridgeDevice
	r.takeFresh() // whatever is new is looked after here
	_, err := r.links.EnsureSysctl("net/ipv4/ip_forward", "1")
	r.problems.Set("forwarding", err)
	// A container's packet to the overlay comes in and goes out by the bridge, and
	// the kernel would tell the container to use the Host directly. The setting
	// counts when it is on for the device or for all; other devices keep their own.
	r.sysctl("net/ipv4/conf/all/send_redirects", "0")
	r.sysctl("net/ipv4/conf/"+bridge+"/send_redirects", "0")
	// Containers are not to steer this machine's own routing.
	r.sysctl("net/ipv4/conf/"+bridge+"/accept_redirects", "0")
	r.sysctl("net/ipv6/conf/"+bridge+"/accept_ra", "0")
	changes, err := r.opts.Firewall.Ensure(r.firewallRules(s))
	for _, c := range changes {
		r.log.Info("firewall: " + c)
	}
	r.problems.Set("firewall", err)
}

// firewallRules are what this machine's firewall must let through. VXLAN comes from
// the Host and from nobody else.
func (r *Runner) firewallRules(s shape) firewall.Rules {
	rules := firewall.Rules{
		Overlay: s.plan.Overlay(), Masquerade: true, Port: s.port, Peer: s.remote,
		Trusted: []string{conf.BridgeDevice, conf.RunnerTunnelDevice},
	}
	if path, err := r.links.PathTo(s.remote); err == nil && !path.Own {
		rules.Underlay = []string{path.Device}
	}
	return rules
}

// sysctl sets what is good to have; a kernel without the setting needs no setting.
func (r *Runner) sysctl(path, value string) {
	_, err := r.links.EnsureSysctl(path, value)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	r.problems.Set("sysctl "+path, err)
}

// takeOver starts from what an earlier run left, without waiting for the Host, so
// that traffic flows again at once. An error is one that waiting will not cure.
func (r *Runner) takeOver() error {
	info, err := r.links.Device(conf.RunnerTunnelDevice)
	if errors.Is(err, link.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Type == "vxlan" && r.opts.Takeover != nil {
		return r.takeOverKernel()
	}
	if !info.OursAs("tap") {
		return &link.ForeignError{Device: info}
	}
	s, err := shapeFrom(info)
	if err != nil || info.Type != "tap" {
		r.log.Warn("a VXLAN device from an earlier run tells nothing usable and waits for the Host's word",
			"device", info.Name, "type", info.Type, "alias", info.Alias, "error", err)
		return nil
	}
	r.log.Info("VXLAN device found from an earlier run: taking over", "device", info.Name, "id", s.id, "vni", s.vni, "remote", s.remote)
	// The Host accepts only the address that was registered: most likely this.
	if s.local = r.cfg.Runner.Address; !s.local.IsValid() {
		if path, err := r.links.PathTo(s.remote); err == nil {
			s.local = path.Local
		}
	}
	return r.resume(s)
}
