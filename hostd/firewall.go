// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"net/netip"
	"slices"
	"sync"

	"kohaku/conf"
	"kohaku/internal/firewall"
)

// firewallRules are what this machine's firewall must let through now.
func (h *Host) firewallRules() firewall.Rules {
	r := firewall.Rules{Overlay: h.plan.Overlay(), Port: h.cfg.Overlay.VXLANPort}
	h.mu.Lock()
	var remotes []netip.Addr
	for _, al := range h.table.all() {
		if runner := h.runners[al.ID]; runner.tunnel {
			r.Trusted = append(r.Trusted, runner.device)
			remotes = append(remotes, runner.remote)
		}
	}
	h.mu.Unlock()
	r.Trusted = append(r.Trusted, conf.HostAddressDevice)
	for _, a := range remotes {
		if !a.IsValid() {
			continue
		}
		if path, err := h.links.PathTo(a); err == nil && !path.Own && !slices.Contains(r.Underlay, path.Device) {
			r.Underlay = append(r.Underlay, path.Device)
		}
	}
	slices.Sort(r.Underlay)
	return r
}

// ensureFirewall brings the firewall about; what fails is a problem, not an end.
func (h *Host) ensureFirewall() {
	changes, err := h.opts.Firewall.Ensure(h.firewallRules())
	for _, c := range changes {
		h.log.Info("firewall: " + c)
	}
	h.problems.Set("firewall", err)
}

// wakeFirewall says that there are other tunnels than before.
func (h *Host) wakeFirewall() {
	select {
	case h.tunnelsChanged <- struct{}{}:
	default:
	}
}

// firewallLoop keeps the firewall: against what others do to it, and after the
// tunnels.
func (h *Host) firewallLoop(ctx context.Context) {
	var watch sync.WaitGroup
	watch.Go(func() { h.opts.Firewall.Watch(ctx) })
	defer watch.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.tunnelsChanged:
			h.ensureFirewall()
		}
	}
}
