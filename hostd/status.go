// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"fmt"

	"kohaku/encap"
	"kohaku/internal/api"
	"kohaku/internal/dataplane"
)

// status describes the overlay as it is now.
func (h *Host) status() api.Status {
	if !h.cfg.Overlay.Enabled {
		return api.Status{Allocations: []api.Allocation{}, Problems: []string{}}
	}
	counters := make(map[encap.VNI]dataplane.Stats)
	for _, t := range h.plane.Tunnels() {
		counters[t.VNI] = t
	}
	drops := h.plane.Drops()
	fallbackMTU := h.overlayMTU()

	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.opts.Now()
	s := api.Status{
		Enabled: true, SubnetConfig: h.plan.String(), HostIP: h.plan.HostAddr(), Allocations: []api.Allocation{},
		Stats: api.Stats{
			TotalAllocations: len(h.table.byID), AvailableIDs: h.table.available(), MaxRunners: h.plan.MaxRunners(),
			BaseVXLANID: h.cfg.Overlay.VXLANID, VXLANPort: h.cfg.Overlay.VXLANPort, Drops: drops,
		},
		Problems: h.problems.List(),
	}
	fw := h.opts.Firewall.Report()
	s.Firewall = &fw
	for _, al := range h.table.all() {
		r := h.runners[al.ID]
		a := api.Allocation{
			RunnerName: r.Name, RunnerID: r.ID, Subnet: h.plan.Subnet(r.ID), Gateway: h.plan.Gateway(r.ID),
			PhysicalIP: r.remote, IsActive: h.table.active(al, now), LastUsed: r.lastUsed, VXLANDevice: r.device,
			HostOnSubnet: h.plan.HostOn(r.ID), HostPhysicalIP: r.local, VNI: uint32(h.vni(r.ID)), MTU: r.mtu, MachineID: r.Machine,
			RunnerCounters: r.report.counters, RunnerProblems: r.report.problems, RunnerFirewall: r.report.firewall,
		}
		if t, ok := counters[h.vni(r.ID)]; ok {
			a.Counters = &t.Counters
			if t.Err != "" {
				s.Problems = append(s.Problems, fmt.Sprintf("VXLAN tunnel to runner %s (%s): %s", r.Name, r.device, api.Printable(t.Err)))
			}
		}
		for _, p := range r.report.problems {
			s.Problems = append(s.Problems, "runner "+r.Name+" reports: "+p)
		}
		if a.IsActive {
			s.Stats.ActiveAllocations++
		} else {
			s.Stats.InactiveAllocations++
		}
		if s.Stats.MTU == 0 || a.MTU < s.Stats.MTU {
			s.Stats.MTU = a.MTU
		}
		s.Allocations = append(s.Allocations, a)
	}
	if s.Stats.MTU == 0 {
		s.Stats.MTU = fallbackMTU
	}
	return s
}
