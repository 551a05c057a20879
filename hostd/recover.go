// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"errors"
	"fmt"

	"kohaku/conf"
	"kohaku/internal/link"
)

// recover builds the table from the aliases of the tunnel devices that an earlier
// run left, and brings their tunnels up toward the remembered remotes. The runners
// count as inactive until they are heard of.
func (h *Host) recover() error {
	devices, err := h.links.Devices()
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noteForeign(devices)
	for _, info := range devices {
		id, ok := conf.RunnerIDOfDevice(info.Name)
		if !ok || !info.OursAs(h.cfg.Engine.Device) {
			continue
		}
		if h.runners[id] != nil {
			continue // taken over from the kernel just now
		}
		alias, err := h.usable(id, info)
		if err == nil {
			err = h.table.restore(id, alias.Runner, alias.Machine, h.opts.Now())
		}
		if err != nil {
			h.log.Error("a VXLAN device tells nothing usable: it is deleted, its runner will register again",
				"device", info.Name, "type", info.Type, "alias", info.Alias, "error", err)
			if err := h.links.Delete(info.Name); err != nil {
				return err
			}
			continue
		}
		r := &runner{allocation: h.table.byID[id], device: info.Name, remote: alias.Remote, mtu: info.MTU}
		h.runners[id] = r
		h.bindAddresses(r)
		h.noteUnclaimed(r)
		h.log.Info("VXLAN device found from an earlier run", "runner", r.Name, "id", id, "device", r.device, "remote", r.remote)
		h.refresh(r)
	}
	return nil
}

// usable gives the alias of a tunnel device of ours if an allocation can be made of
// it. The VNI may be that of another vxlan_id: it is given anew.
func (h *Host) usable(id int, info link.Info) (link.Alias, error) {
	// Of either kind: the one that the settings do not want is made anew.
	if info.Type != conf.DeviceTAP && info.Type != conf.DeviceTUN {
		return link.Alias{}, fmt.Errorf("it is of type %s, not a TAP", info.Type)
	}
	if info.Bare() {
		return link.Alias{}, errors.New("it was never finished")
	}
	a, err := link.ParseAlias(info.Alias)
	switch {
	case err != nil:
		return link.Alias{}, err
	case a.ID != id:
		return link.Alias{}, fmt.Errorf("the alias says runner id %d, the name says %d", a.ID, id)
	case a.Runner == "" && a.Machine == "" && a.VNI != 0 && a.Remote.IsValid():
		a.Runner = unclaimedName(id)
	case a.Runner == "" || a.Machine == "":
		return link.Alias{}, errors.New("the alias names no runner")
	}
	return a, nil
}

// noteForeign keeps ids whose device name somebody else uses from being handed
// out, and reports those devices. Guarded by mu.
func (h *Host) noteForeign(devices []link.Info) {
	blocked := make(map[int]bool)
	var found error
	for _, info := range devices {
		if id, ok := conf.RunnerIDOfDevice(info.Name); ok && !info.OursAs(h.cfg.Engine.Device) {
			blocked[id] = true
			found = errors.Join(found, &link.ForeignError{Device: info})
		}
	}
	h.table.block(blocked)
	h.problems.Set("foreign devices", found)
}

// refresh brings a known runner's tunnel in line with the underlay as it is now.
// What goes wrong becomes a problem and is tried again by the reconciler. Guarded
// by mu.
func (h *Host) refresh(r *runner) {
	key := problemKey(r)
	if !r.remote.IsValid() {
		return
	}
	u, err := h.toward(r.remote, r.report.underlayMTU)
	if err == nil {
		r.local, r.mtu = u.local, u.mtu
		h.problems.Set(key+" mtu", u.tight)
	} else if h.cfg.Overlay.MTU != 0 {
		r.mtu = h.cfg.Overlay.MTU
	}
	// Without a route the tunnel comes up all the same, and works once there is
	// one; r keeps what was right last.
	if buildErr := h.build(r); buildErr != nil {
		err = buildErr
	}
	if err != nil {
		err = fmt.Errorf("VXLAN tunnel to runner %s (%s): %w", r.Name, r.device, err)
	}
	h.problems.Set(key, err)
}
