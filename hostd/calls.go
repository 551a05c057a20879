// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"kohaku/conf"
	"kohaku/internal/api"
)

// refusal is a call that is answered with an error.
type refusal struct {
	code int // HTTP status
	text string
	hint string
}

func (r *refusal) Error() string { return r.text }

// report is what a runner said of itself last.
type report struct {
	counters    *api.Counters
	problems    []string
	firewall    *api.Firewall
	underlayMTU int
}

var errDisabled = &refusal{http.StatusServiceUnavailable, "Overlay not enabled",
	"set enabled = true in the [overlay] section of host.toml and restart the Host"}

// problemJoining is one for all runners that have no id yet, so that their names do
// not fill the status. It is forgotten joinFailedFor after the last attempt: a Runner
// that still wants to join tries every few seconds.
const (
	problemJoining = "joining"
	joinFailedFor  = time.Minute
)

// register joins a runner, or brings the tunnel of one that joined before in line
// with what it says now. from is the address that the call came from.
func (h *Host) register(q api.RegisterRequest, from netip.Addr) (api.RegisterAnswer, error) {
	if !h.cfg.Overlay.Enabled {
		return api.RegisterAnswer{}, errDisabled
	}
	if err := h.checkRemote(q.Address, from); err != nil {
		return api.RegisterAnswer{}, err
	}
	u, err := h.toward(q.Address, q.UnderlayMTU)
	if err != nil {
		return api.RegisterAnswer{}, &refusal{http.StatusBadRequest, "no tunnel to the runner's address is possible: " + err.Error(), ""}
	}
	if err := h.checkSettings(q.Settings, u.mtu); err != nil {
		return api.RegisterAnswer{}, err
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.opts.Now()
	h.claim(q, from)
	h.followRename(q)
	got, isNew, recycled, err := h.table.register(q.Hostname, q.MachineID, q.PreviousID, now)
	if err != nil {
		h.log.Warn("a runner was refused", "runner", q.Hostname, "address", q.Address, "error", err)
		return api.RegisterAnswer{}, refuse(err)
	}
	if recycled != nil {
		h.log.Warn("a runner's id is recycled: all ids are taken and it was inactive the longest", "runner", recycled.Name, "id", recycled.ID, "for", got.Name)
		h.dropAddresses(h.runners[recycled.ID])
		if err := h.destroy(h.runners[recycled.ID]); err != nil {
			h.log.Error("remove the VXLAN device of a recycled runner", "error", err)
		}
	}
	r := h.runners[got.ID]
	if r == nil {
		r = &runner{allocation: got, device: conf.HostDevice(got.ID)}
		h.runners[got.ID] = r
	}
	if r.remote != q.Address && r.remote.IsValid() {
		h.log.Info("runner has a new address, its VXLAN tunnel follows", "runner", r.Name, "was", r.remote, "is", q.Address)
	}
	was := *r
	r.remote, r.local, r.mtu = q.Address, u.local, u.mtu
	r.report.underlayMTU = q.UnderlayMTU
	if err := h.build(r); err != nil {
		err = fmt.Errorf("VXLAN tunnel to runner %s (%s): %w", r.Name, r.device, err)
		if isNew {
			// Nothing half-made stays behind a refusal.
			h.table.remove(got)
			err = errors.Join(err, h.destroy(r))
			// The status is where a person looks for a runner that is not there.
			h.problems.Set(problemJoining, err)
			h.joinFailed = now
		} else {
			r.remote, r.local, r.mtu = was.remote, was.local, was.mtu
			h.problems.Set(problemKey(r), err)
		}
		h.log.Error("a runner could not be joined", "runner", q.Hostname, "error", err)
		return api.RegisterAnswer{}, &refusal{http.StatusInternalServerError, err.Error(), "the Host's log has more: journalctl -u kohakuriver-host"}
	}
	h.problems.Clear(problemJoining)
	h.problems.Clear(problemKey(r))
	h.problems.Set(problemKey(r)+" mtu", u.tight)
	r.lastUsed, r.wasActive = time.Now(), true
	h.bindAddresses(r)
	h.log.Info("runner joined", "runner", r.Name, "id", r.ID, "subnet", h.plan.Subnet(r.ID), "address", r.remote, "new", isNew, "version", q.Version)
	return h.answer(r), nil
}

func (h *Host) answer(r *runner) api.RegisterAnswer {
	return api.RegisterAnswer{
		RunnerName: r.Name, RunnerID: r.ID,
		SubnetConfig: h.plan.String(), Subnet: h.plan.Subnet(r.ID), Gateway: h.plan.Gateway(r.ID),
		HostOnSubnet: h.plan.HostOn(r.ID), HostIP: h.plan.HostAddr(), HostPhysicalIP: r.local,
		VNI: uint32(h.vni(r.ID)), VXLANPort: h.cfg.Overlay.VXLANPort, MTU: r.mtu,
		HeartbeatInterval: h.beat.Interval.Seconds(), TimeoutFactor: h.beat.TimeoutFactor,
	}
}

// checkSettings refuses a runner whose own file demands something else than what
// the Host hands out. mtu is what it would get.
func (h *Host) checkSettings(s api.Settings, mtu int) error {
	differ := func(key string, theirs, ours any) error {
		return &refusal{http.StatusConflict,
			fmt.Sprintf("the runner's file says %s = %v, the Host's is %v", key, theirs, ours),
			fmt.Sprintf("remove %s from the [overlay] section of runner.toml, or write the same value on both machines", key)}
	}
	o := h.cfg.Overlay
	switch {
	case s.Subnet != nil && *s.Subnet != o.Subnet.String():
		return differ("subnet", *s.Subnet, o.Subnet)
	case s.VXLANID != nil && *s.VXLANID != o.VXLANID:
		return differ("vxlan_id", *s.VXLANID, o.VXLANID)
	case s.VXLANPort != nil && *s.VXLANPort != o.VXLANPort:
		return differ("vxlan_port", *s.VXLANPort, o.VXLANPort)
	case s.MTU != nil && *s.MTU != 0 && *s.MTU != mtu:
		return differ("mtu", *s.MTU, mtu)
	}
	return nil
}

// refuse turns the allocator's errors into answers.
func refuse(err error) error {
	var conflict *ConflictError
	var full *FullError
	switch {
	case errors.As(err, &conflict):
		return &refusal{http.StatusConflict, err.Error(), fmt.Sprintf(
			"give this machine another hostname or `name`; or, if it replaces the other one, run on the Host: kohaku node overlay-release %s", conflict.Name)}
	case errors.As(err, &full):
		return &refusal{http.StatusServiceUnavailable, err.Error(),
			"on the Host, look for runners that are gone with `kohaku node overlay` and free them with `kohaku node overlay-release NAME`, " +
				"or choose a subnet with more node bits"}
	}
	return err
}

// heartbeat notes that a runner is alive.
func (h *Host) heartbeat(name string, b api.Heartbeat) (api.HeartbeatAnswer, error) {
	if !h.cfg.Overlay.Enabled {
		return api.HeartbeatAnswer{}, errDisabled
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	unknown := func(why string) (api.HeartbeatAnswer, error) {
		return api.HeartbeatAnswer{}, &refusal{http.StatusNotFound, why, "register again"}
	}
	if al := h.table.byName[name]; al == nil {
		return unknown(fmt.Sprintf("the Host has no runner %q", name))
	} else if al.Machine == b.MachineID {
		switch r := h.runners[al.ID]; {
		case al.ID != b.RunnerID:
			return unknown(fmt.Sprintf("runner %q has id %d here, not %d", name, al.ID, b.RunnerID))
		case r.remote != b.Address:
			return unknown(fmt.Sprintf("runner %q has the address %s here, not %s", name, r.remote, b.Address))
		case !r.tunnel:
			return unknown(fmt.Sprintf("runner %q has no tunnel here", name))
		}
		if err := b.CheckUsed(h.plan.Subnet(al.ID)); err != nil {
			return api.HeartbeatAnswer{}, &refusal{http.StatusBadRequest, err.Error(), "a Runner tells of its own containers only"}
		}
	}
	al, err := h.table.heartbeat(name, b.MachineID, h.opts.Now())
	if err != nil {
		return api.HeartbeatAnswer{}, refuse(err)
	}
	r := h.runners[al.ID]
	r.lastUsed = time.Now()
	r.report = report{counters: &b.Counters, problems: b.Problems, firewall: b.Firewall, underlayMTU: b.UnderlayMTU}
	h.noteUsed(r, b.UsedAddresses)
	h.noteActivity(r, h.opts.Now())
	return api.HeartbeatAnswer{RunnerID: r.ID, HostPhysicalIP: r.local, MTU: r.mtu, HeartbeatInterval: h.beat.Interval.Seconds()}, nil
}

// release frees one runner's allocation, active or not.
func (h *Host) release(name string) (api.ReleaseAnswer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	al := h.table.byName[name]
	if al == nil {
		return api.ReleaseAnswer{}, &refusal{http.StatusNotFound, fmt.Sprintf("the Host has no runner %q", name), "`kohaku node overlay` lists them"}
	}
	a := api.ReleaseAnswer{Released: name, RunnerID: al.ID, WasActive: h.table.active(al, h.opts.Now())}
	if err := h.free(al); err != nil {
		return a, err
	}
	return a, nil
}

// cleanup frees all inactive allocations but those of runners that may only not
// have had the time to be heard since the Host started.
func (h *Host) cleanup() (api.CleanupAnswer, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := api.CleanupAnswer{Released: []string{}, Kept: []string{}}
	now := h.opts.Now()
	for _, al := range h.table.inactive(now) {
		if h.table.unheard(al, now) {
			a.Kept = append(a.Kept, al.Name)
			continue
		}
		if err := h.free(al); err != nil {
			return a, err
		}
		a.Released = append(a.Released, al.Name)
	}
	return a, nil
}

// free removes an allocation and what was built for it. Guarded by mu.
func (h *Host) free(al *allocation) error {
	r := h.runners[al.ID]
	h.table.remove(al)
	h.dropAddresses(r)
	if err := h.destroy(r); err != nil {
		err = fmt.Errorf("runner %s is released, but not all of it is gone: %w", al.Name, err)
		h.log.Error("VXLAN device left behind", "runner", al.Name, "error", err)
		return &refusal{http.StatusInternalServerError, err.Error(), "remove the device by hand: ip link delete " + r.device}
	}
	h.log.Info("runner released, its VXLAN tunnel is gone", "runner", al.Name, "id", al.ID)
	return nil
}
