// SPDX-License-Identifier: Apache-2.0

package hostd

import "kohaku/internal/api"

// followRename keeps the id of a machine that has another name than before: an
// allocation of the same machine gets the new name. Otherwise the machine would get
// another subnet, and its containers would have addresses that nobody reaches.
//
// Machine ids are not proof: machines that were copied from one disk share one. So
// the old name must be silent, and the request must come with a second trait of the
// old one, the id on its devices or its address. Guarded by mu.
func (h *Host) followRename(q api.RegisterRequest) {
	if h.table.byName[q.Hostname] != nil {
		return
	}
	now := h.opts.Now()
	var found []*runner
	for _, al := range h.table.all() {
		r := h.runners[al.ID]
		if al.Machine == q.MachineID && r != nil && !h.table.active(al, now) && (q.PreviousID == al.ID || q.PreviousID == 0 && r.remote == q.Address) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		return
	}
	r := found[0]
	h.log.Warn("a machine has another name than before: it keeps its id", "was", r.Name, "is", q.Hostname, "id", r.ID, "machine", r.Machine)
	if h.reservations != nil {
		h.reservations.Rename(r.Name, q.Hostname)
	}
	h.table.rename(r.allocation, q.Hostname, q.MachineID)
}
