// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"time"

	"kohaku/encap"
	"kohaku/internal/link"
)

// reconcileLoop looks after everything once per heartbeat interval.
func (h *Host) reconcileLoop(ctx context.Context) {
	interval := h.interval()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	alive := h.opts.Live.Loop("the reconciler")
	defer alive.End()
	for {
		alive.Tick(interval)
		select {
		case <-ctx.Done():
			return
		case c := <-h.opts.Settings:
			interval = h.apply(c)
			tick.Reset(interval)
		case <-tick.C:
			h.reconcile()
			h.opts.Supervisor.Status(h.statusLine())
		}
	}
}

// reconcile puts back what somebody changed, follows changes of the underlay and
// notes who fell silent.
func (h *Host) reconcile() {
	h.problems.Set("host device", h.ensureHostDevice())
	h.ensureMachine()
	h.flushReservations()
	// From here on under the lock: a runner that joins in between would have a
	// device that the list does not show.
	h.mu.Lock()
	defer h.mu.Unlock()
	devices, err := h.links.Devices()
	if !h.problems.Set("devices", err) {
		return
	}
	byName := make(map[string]link.Info, len(devices))
	for _, d := range devices {
		byName[d.Name] = d
	}
	broken := make(map[encap.VNI]string)
	for _, t := range h.plane.Tunnels() {
		if t.Err != "" {
			broken[t.VNI] = t.Err
		}
	}
	h.noteForeign(devices)
	now := h.opts.Now()
	if now.Sub(h.joinFailed) > joinFailedFor {
		h.problems.Clear(problemJoining)
	}
	for _, al := range h.table.all() {
		r := h.runners[al.ID]
		h.noteActivity(r, now)
		info, exists := byName[r.device]
		if why := broken[h.vni(r.ID)]; r.tunnel && (!exists || why != "") {
			h.log.Warn("a VXLAN device is gone or dead and is made anew", "device", r.device, "runner", r.Name, "error", why)
			h.detach(r)
		}
		if r.tunnel && exists && !h.moved(r) && h.dressed(r, info) {
			continue
		}
		h.refresh(r)
	}
}

// moved reports whether the underlay toward the runner is not what the tunnel was
// built for.
func (h *Host) moved(r *runner) bool {
	u, err := h.toward(r.remote, r.report.underlayMTU)
	return err != nil || u.local != r.local || u.mtu != r.mtu
}

// noteActivity logs when a runner falls silent or speaks again. Guarded by mu.
func (h *Host) noteActivity(r *runner, now time.Time) {
	active := h.table.active(r.allocation, now)
	if active == r.wasActive {
		return
	}
	r.wasActive = active
	if active {
		h.log.Info("runner is active", "runner", r.Name, "id", r.ID)
	} else {
		h.log.Warn("runner is inactive: no heartbeat came in time; its VXLAN tunnel stays", "runner", r.Name, "id", r.ID, "last_used", r.lastUsed)
	}
}

// detach makes the data plane forget a runner's tunnel.
func (h *Host) detach(r *runner) {
	if err := h.plane.Remove(h.vni(r.ID)); err != nil {
		h.log.Debug("remove a dead VXLAN tunnel", "device", r.device, "error", err)
	}
	r.tunnel = false
}

// repairDelay lies between a device's death and its repair, so that somebody who
// deletes devices in a loop does not keep the daemon busy.
const repairDelay = 100 * time.Millisecond

// failureLoop makes devices anew that were deleted under the data plane.
func (h *Host) failureLoop(ctx context.Context) {
	dead := make(map[encap.VNI]bool)
	var repair <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-h.plane.Failures():
			h.log.Warn("a VXLAN device failed and is made anew", "device", f.Device, "vni", f.VNI, "error", f.Err)
			dead[f.VNI] = true
			if repair == nil {
				repair = time.After(repairDelay)
			}
		case <-repair:
			repair = nil
			for vni := range dead {
				if h.repair(vni) {
					delete(dead, vni)
				} else {
					repair = time.After(repairDelay)
				}
			}
		}
	}
}

// repair rebuilds the tunnel of a VNI and reports whether that is settled.
func (h *Host) repair(vni encap.VNI) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.runners[int(uint32(vni)-h.cfg.Overlay.VXLANID)]
	if r == nil {
		return true
	}
	h.detach(r)
	h.refresh(r)
	return r.tunnel
}
