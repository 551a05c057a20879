// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"fmt"
	"net/netip"
	"slices"

	"kohaku/internal/api"
	"kohaku/internal/link"
	"kohaku/internal/takeover"
)

// takeOver removes the kernel's VXLAN devices of an earlier overlay, if there are
// any, for ours to come in their place. What it gives is to be adopted at once, or
// undone.
func (h *Host) takeOver() (takeover.Handover, error) {
	if h.opts.Takeover == nil {
		return takeover.Handover{}, nil
	}
	plan, err := takeover.PlanHost(h.opts.Takeover, h.cfg.Overlay)
	if err != nil {
		return takeover.Handover{}, err
	}
	return takeover.Begin(h.opts.Takeover, h.opts.Machine, h.links, h.log, plan)
}

// adopt makes ours in the place of the kernel's devices, with their ids, remotes
// and addresses. Whose they are is not known before their runners register.
func (h *Host) adopt(old takeover.Handover) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range old.Steps {
		if s.Verdict != takeover.Take {
			continue
		}
		if err := h.table.restore(s.ID, unclaimedName(s.ID), "", h.opts.Now()); err != nil {
			return err
		}
		// The MAC stays: the runner's end and its containers know it.
		r := &runner{allocation: h.table.byID[s.ID], device: s.Name, remote: s.Remote, local: s.Local, mtu: s.MTU, mac: s.MAC}
		h.runners[s.ID] = r
		if u, err := h.toward(s.Remote, 0); err == nil {
			r.local, r.mtu = u.local, u.mtu
			h.problems.Set(problemKey(r)+" mtu", u.tight)
		} else {
			h.problems.Set(problemKey(r), err)
		}
		if s.Local.IsValid() && r.local != s.Local {
			h.log.Warn("the Host's end of a tunnel gets another underlay address; set reachable_address in host.toml to keep the old one",
				"device", s.Name, "was", s.Local, "is", r.local)
		}
		if err := h.build(r); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		// Addresses that are none of the overlay's are somebody's, and stay.
		stale := link.Stale(h.plan, "")
		others := slices.DeleteFunc(slices.Clone(s.Addrs), stale)
		if len(others) > 0 {
			if _, err := h.links.EnsureAddrs(s.Name, others, nil); err != nil {
				return err
			}
		}
		h.noteUnclaimed(r)
		h.log.Info("VXLAN device taken over from the kernel", "device", s.Name, "id", s.ID, "vni", s.VNI, "remote", s.Remote)
	}
	return nil
}

// unclaimedName stands for a runner that has not said its name yet. By RFC 2606
// section 2 no machine has such a name.
func unclaimedName(id int) string { return fmt.Sprintf("unclaimed-%d.invalid", id) }

// unclaimed reports whether it is not known whose allocation this is.
func (al *allocation) unclaimed() bool { return al.Machine == "" }

// noteUnclaimed keeps the problem that a person may have to solve, for as long as
// an allocation is nobody's. Guarded by mu.
func (h *Host) noteUnclaimed(r *runner) {
	key := problemKey(r) + " unclaimed"
	if !r.unclaimed() {
		h.problems.Clear(key)
		return
	}
	h.problems.Set(key, fmt.Errorf("%s was taken over from the kernel, and the runner at %s has not registered yet: its traffic flows, "+
		"but neither its name nor whether it is alive is known (start `kohaku runner` there; or, if it is gone: kohaku node overlay-release %s)",
		r.device, r.remote, r.Name))
}

// claim gives an allocation that is nobody's to the runner that registers from the
// address at its tunnel's other end, so that it keeps its id. from is where the
// call came from.
//
// Nothing is given on the word of a runner alone: beside the address in the request
// it takes that the call came from there, or that the runner's own devices carry the
// id. When several allocations have the address, the id decides. A runner that has
// an allocation already gets no other. Guarded by mu.
func (h *Host) claim(q api.RegisterRequest, from netip.Addr) {
	if h.table.byName[q.Hostname] != nil {
		return
	}
	var mine []*runner
	for _, al := range h.table.all() {
		r := h.runners[al.ID]
		if al.unclaimed() && r != nil && r.remote == q.Address && (q.PreviousID == 0 || q.PreviousID == al.ID) {
			mine = append(mine, r)
		}
	}
	switch {
	case len(mine) == 0:
		return
	case len(mine) > 1:
		h.log.Warn("several tunnels that were taken over from the kernel lead to this runner, and it does not say which id it had: it gets a new one",
			"runner", q.Hostname, "address", q.Address)
		return
	case q.PreviousID == 0 && from.Unmap() != q.Address:
		h.log.Warn("a runner registers for the address of a tunnel that was taken over from the kernel, but not from there, and does not say which id it had: it gets a new one",
			"runner", q.Hostname, "address", q.Address, "from", from)
		return
	}
	r := mine[0]
	was := r.Name
	h.table.rename(r.allocation, q.Hostname, q.MachineID)
	h.noteUnclaimed(r)
	h.log.Info("a tunnel that was taken over from the kernel has its runner", "runner", r.Name, "id", r.ID, "address", r.remote, "was", was)
}

// rename gives an allocation another name and machine.
func (a *allocator) rename(al *allocation, name, machine string) {
	delete(a.byName, al.Name)
	al.Name, al.Machine = name, machine
	a.byName[name] = al
}
