// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"context"
	"fmt"
	"net/netip"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/internal/api"
	"kohaku/internal/dataplane"
	"kohaku/internal/link"
)

// wire is the data plane with its one tunnel.
type wire struct {
	plane dataplane.Plane // nil: not started
	port  uint16
	stop  context.CancelFunc // ends the passing on of failures
	ended chan struct{}

	tunnel bool // the tunnel below is in the plane
	vni    encap.VNI
	remote netip.Addr
	local  netip.Addr
	plan   conf.Plan
}

// ensurePlane starts the data plane, on another port if need be. Guarded by mu.
func (r *Runner) ensurePlane(port uint16) error {
	if r.wire.plane != nil && r.wire.port == port {
		return nil
	}
	r.stopPlane()
	plane, err := r.opts.Machine.NewPlane(port)
	if err != nil {
		return fmt.Errorf("start VXLAN on UDP port %d: %w", port, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.wire = wire{plane: plane, port: port, stop: cancel, ended: make(chan struct{})}
	go passFailures(ctx, plane.Failures(), r.failures, r.wire.ended)
	return nil
}

// passFailures hands the failures of one data plane on to the keeper, which lives
// longer than any.
func passFailures(ctx context.Context, from <-chan dataplane.Failure, to chan<- dataplane.Failure, ended chan<- struct{}) {
	defer close(ended)
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-from:
			select {
			case to <- f:
			case <-ctx.Done():
				return
			}
		}
	}
}

// stopPlane ends the data plane; its device stays in the kernel. Guarded by mu.
func (r *Runner) stopPlane() {
	if r.wire.plane == nil {
		return
	}
	r.wire.stop()
	<-r.wire.ended
	if err := r.wire.plane.Close(); err != nil {
		r.log.Warn("end VXLAN", "error", err)
	}
	r.wire = wire{}
}

func (r *Runner) closeWire() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopPlane()
}

// ensureTunnel keeps the tunnel device and the tunnel. Guarded by mu.
func (r *Runner) ensureTunnel(s shape) error {
	const device = conf.RunnerTunnelDevice
	if err := r.ensurePlane(s.port); err != nil {
		return err
	}
	w := &r.wire
	if w.tunnel && w.vni != s.vni {
		r.detach()
	}
	peer := dataplane.Peer{Remote: s.remote, Local: s.local}
	if r.cfg.Engine.AntiSpoof {
		peer.Sources = []netip.Prefix{s.plan.Overlay()}
	}
	if w.tunnel {
		if w.remote != s.remote || w.local != s.local || w.plan != s.plan {
			if err := w.plane.Update(s.vni, peer); err != nil {
				return fmt.Errorf("change the VXLAN tunnel to %s: %w", s.remote, err)
			}
			r.log.Info("VXLAN tunnel has new ends", "remote", s.remote, "local", s.local)
		}
		w.remote, w.local, w.plan = s.remote, s.local, s.plan
		return r.dressTunnel(s)
	}
	tap, err := dataplane.Open(r.opts.Machine, r.links, r.log,
		dataplane.Device{Name: device, MTU: s.mtu, MAC: link.StableMAC(r.opts.MachineID, device)})
	if err != nil {
		return err
	}
	// The alias comes right after the device: from here on a crash leaves
	// something behind that the next start understands.
	if err := r.dressTunnel(s); err != nil {
		tap.Close()
		return err
	}
	if err := w.plane.Add(dataplane.Tunnel{VNI: s.vni, Peer: peer, Device: tap}); err != nil {
		tap.Close()
		return fmt.Errorf("add the VXLAN tunnel to %s: %w", s.remote, err)
	}
	r.fresh = true
	w.tunnel, w.vni, w.remote, w.local, w.plan = true, s.vni, s.remote, s.local, s.plan
	r.log.Info("VXLAN tunnel is up", "device", device, "vni", s.vni, "remote", s.remote, "mtu", s.mtu)
	return nil
}

// detach makes the data plane forget the tunnel, whose device may be dead. Guarded
// by mu.
func (r *Runner) detach() {
	if !r.wire.tunnel {
		return
	}
	if err := r.wire.plane.Remove(r.wire.vni); err != nil {
		r.log.Debug("remove a dead VXLAN tunnel", "error", err)
	}
	r.wire.tunnel = false
}

// counters are those of the tunnel.
func (r *Runner) counters() api.Counters {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wire.plane == nil {
		return api.Counters{}
	}
	for _, t := range r.wire.plane.Tunnels() {
		if t.VNI == r.wire.vni {
			c := t.Counters
			// What belongs to no tunnel can only have been meant for this one.
			for reason, n := range r.wire.plane.Drops() {
				if c.Drops == nil {
					c.Drops = make(map[string]uint64)
				}
				c.Drops[reason] += n
			}
			return c
		}
	}
	return api.Counters{}
}
