// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kohaku/conf"
	"kohaku/internal/link"
)

const (
	// keepInterval is how often everything is looked after, whether or not the
	// Host answers.
	keepInterval = 5 * time.Second
	// repairDelay lies between a device's death and its repair, so that somebody
	// who deletes devices in a loop does not keep the daemon busy.
	repairDelay = 100 * time.Millisecond
)

// keep puts back what somebody changed on this machine, until ctx ends. It is apart
// from the talk with the Host, which may take its time.
func (r *Runner) keep(ctx context.Context) {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	var repair <-chan time.Time
	alive := r.opts.Live.Loop("the reconciler")
	defer alive.End()
	for {
		alive.Tick(keepInterval)
		r.opts.Supervisor.Status(r.statusLine())
		select {
		case <-ctx.Done():
			return
		case f := <-r.failures:
			r.log.Warn("the VXLAN device failed and is made anew", "device", f.Device, "vni", f.VNI, "error", f.Err)
			if repair == nil {
				repair = time.After(repairDelay)
			}
		case <-repair:
			repair = nil
			if !r.reconcile(true) {
				repair = time.After(repairDelay)
			}
		case <-r.changedHere:
			r.reconcile(false)
			if r.takeFresh() {
				r.ensureMachine(r.current())
			}
		case <-tick.C:
			r.reconcile(false)
			if s := r.current(); s.id != 0 {
				r.ensureMachine(s)
			}
		}
	}
}

// takeFresh reports whether a device was made since it was last asked: settings
// that go with a device are then to be made, too.
func (r *Runner) takeFresh() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.fresh
	r.fresh = false
	return was && r.shape.id != 0
}

// reconcile builds what is to be built once more; dead says that the tunnel's
// device is known to be dead. It reports whether all is well.
func (r *Runner) reconcile(dead bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.shape.id == 0 {
		return true
	}
	if r.wire.tunnel {
		_, err := r.links.Device(conf.RunnerTunnelDevice)
		why := r.tunnelError()
		if dead || errors.Is(err, link.ErrNotFound) || why != "" {
			if !dead {
				r.log.Warn("the VXLAN device is gone or dead and is made anew", "device", conf.RunnerTunnelDevice, "error", why)
			}
			r.detach()
		}
	}
	err := r.build(r.shape)
	if err != nil {
		err = fmt.Errorf("keep this machine's end of the overlay: %w", err)
	}
	return r.problems.Set("overlay", err)
}

// tunnelError is why the tunnel carries nothing. Guarded by mu.
func (r *Runner) tunnelError() string {
	for _, t := range r.wire.plane.Tunnels() {
		if t.VNI == r.wire.vni {
			return t.Err
		}
	}
	return ""
}
