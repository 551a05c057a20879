// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"fmt"
	"slices"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/internal/takeover"
)

// takeOverKernel starts from the kernel's VXLAN device of an earlier overlay,
// without waiting for the Host: the bridge's address tells which runner this is. If
// it does not, the Host has to, and the device stays until then. An error is one
// that waiting will not cure.
func (r *Runner) takeOverKernel() error {
	plan, err := takeover.PlanRunner(r.opts.Takeover, r.cfg.Overlay)
	if err != nil {
		return err
	}
	if err := plan.Err(); err != nil {
		return err
	}
	// The bridge gets a MAC of its own, which its ports' coming and going does not
	// change. With this, the kernel tells the containers (ip-sysctl: arp_notify).
	r.sysctl("net/ipv4/conf/"+conf.BridgeDevice+"/arp_notify", "1")
	i := slices.IndexFunc(plan, func(s takeover.Step) bool { return s.Name == conf.RunnerTunnelDevice })
	if i < 0 {
		return nil // gone meanwhile
	}
	step := plan[i]
	fits := step.MTU >= int(encap.MinInnerMTU) && step.MTU <= int(encap.MaxInnerMTU)
	if step.Verdict != takeover.Take || !step.Plan.IsValid() || !fits {
		r.log.Warn("the kernel's VXLAN device waits for the Host's word", "device", step.Name, "vni", step.VNI, "remote", step.Remote, "mtu", step.MTU, "why", step.Why)
		return nil
	}
	s := shape{
		id: step.ID, plan: step.Plan, vni: encap.VNI(step.VNI), port: step.Port, remote: step.Remote, local: r.cfg.Runner.Address, mtu: step.MTU,
	}
	if !s.local.IsValid() {
		s.local = step.Local
	}
	if !s.local.IsValid() {
		if path, err := r.links.PathTo(s.remote); err == nil {
			s.local = path.Local
		}
	}
	return r.resume(s)
}

// resume builds what devices of an earlier run tell, before the Host was asked. An
// error is one that waiting will not cure.
func (r *Runner) resume(s shape) error {
	r.mu.Lock()
	err := r.build(s)
	r.mu.Unlock()
	if err != nil {
		if hopeless(err) {
			return err
		}
		r.problems.Set("overlay", fmt.Errorf("take over the VXLAN tunnel of an earlier run: %w", err))
		return nil
	}
	r.ensureMachine(s)
	r.ready()
	return nil
}

// ensureTunnelAlone is ensureTunnel on a machine where the kernel may have VXLAN
// devices: that of an earlier overlay goes first, and comes back if ours cannot be
// made. Guarded by mu.
func (r *Runner) ensureTunnelAlone(s shape) error {
	if r.opts.Takeover == nil || r.wire.plane != nil && r.wire.port == s.port {
		return r.ensureTunnel(s)
	}
	devices, err := r.opts.Takeover.Find()
	if err != nil {
		return err
	}
	plan := takeover.ForJoined(devices, uint32(s.vni)-uint32(s.id), s.plan.MaxRunners(), s.port)
	old, err := takeover.Begin(r.opts.Takeover, r.opts.Machine, r.links, r.log, plan)
	if err != nil {
		return err
	}
	err = r.ensureTunnel(s)
	if len(old.Steps) == 0 {
		return err
	}
	if err == nil {
		err = r.ensureUp(s)
	}
	if err != nil {
		r.stopPlane()
		return old.Undo(err)
	}
	r.log.Info("VXLAN device taken over from the kernel", "device", conf.RunnerTunnelDevice, "id", s.id, "vni", s.vni, "remote", s.remote)
	return nil
}
