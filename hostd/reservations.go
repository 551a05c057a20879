// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/reserve"
)

// openReservations reads the reservations of an earlier run. Without them the Host
// does all else; the calls then say what is wrong.
func (h *Host) openReservations() {
	store, damage, err := reserve.Open(h.cfg.Host.StateDir, h.opts.BootClock)
	if err != nil {
		h.problems.Set("reservations", fmt.Errorf("addresses cannot be reserved: %w", err))
		return
	}
	if damage != nil {
		h.log.Error(damage.Error())
	}
	h.reservations = store
	if all, _ := store.Counts(); all > 0 {
		h.log.Info("reservations of addresses go on", "reservations", all)
	}
}

// bindAddresses says that a runner's subnet is what its id says.
func (h *Host) bindAddresses(r *runner) {
	if h.reservations != nil {
		h.reservations.Bind(r.Name, reserve.PoolOf(h.plan, r.ID))
	}
}

// dropAddresses ends the reservations on a runner whose allocation ends.
func (h *Host) dropAddresses(r *runner) {
	if h.reservations != nil {
		h.reservations.Drop(r.Name)
	}
}

// noteUsed keeps what a runner's containers use from being given away. Nil says that
// the runner does not know, and leaves all as it was.
func (h *Host) noteUsed(r *runner, used []netip.Addr) {
	if h.reservations != nil && used != nil {
		h.reservations.SetUsed(r.Name, used)
	}
}

// flushReservations writes down what others than the API's calls have changed.
func (h *Host) flushReservations() {
	if h.reservations != nil {
		h.problems.Set("reservations", h.reservations.Flush())
	}
}

// store gives the reservations, or the refusal.
func (h *Host) store() (*reserve.Store, error) {
	switch {
	case !h.cfg.Overlay.Enabled:
		return nil, errDisabled
	case h.reservations == nil:
		return nil, &refusal{http.StatusServiceUnavailable, "the Host could not read its reservations when it started",
			"see what is wrong with `kohaku status`, put it right and restart the Host"}
	}
	return h.reservations, nil
}

// refuseReservation turns an error of package reserve into an answer.
func refuseReservation(err error) error {
	no, ok := errors.AsType[*reserve.Error](err)
	if !ok {
		return err
	}
	code := map[reserve.Kind]int{
		reserve.BadRequest: http.StatusBadRequest, reserve.UnknownRunner: http.StatusNotFound, reserve.NotYet: http.StatusServiceUnavailable,
		reserve.Taken: http.StatusConflict, reserve.BadToken: http.StatusForbidden, reserve.Gone: http.StatusGone,
		reserve.InUse: http.StatusConflict, reserve.Unwritable: http.StatusServiceUnavailable,
	}[no.Kind]
	if code == 0 {
		code = http.StatusInternalServerError
	}
	return &refusal{code, no.Text, no.Hint}
}

func (h *Host) reserveAddress(q api.ReserveRequest) (api.ReserveAnswer, error) {
	store, err := h.store()
	if err != nil {
		return api.ReserveAnswer{}, err
	}
	r, token, err := store.Reserve(reserve.Request{
		Runner: q.Runner, Addr: q.IP, TTL: time.Duration(math.Ceil(q.TTL * float64(time.Second))), Name: q.Name,
	})
	if err != nil {
		return api.ReserveAnswer{}, refuseReservation(err)
	}
	h.log.Info("address reserved", "ip", r.Addr, "runner", r.Runner, "for", r.Name, "ttl", r.TTL, "reservation", r.ID)
	return api.ReserveAnswer{Reservation: publicReservation(r), Token: token}, nil
}

func (h *Host) releaseAddress(token string) (api.ReleaseIPAnswer, error) {
	store, err := h.store()
	if err != nil {
		return api.ReleaseIPAnswer{}, err
	}
	r, err := store.Release(token)
	if err != nil {
		return api.ReleaseIPAnswer{}, refuseReservation(err)
	}
	h.log.Info("reservation released", "ip", r.Addr, "runner", r.Runner, "reservation", r.ID)
	return api.ReleaseIPAnswer{Released: true, IP: r.Addr, Runner: r.Runner}, nil
}

func (h *Host) listReservations(runner string) (api.Reservations, error) {
	store, err := h.store()
	if err != nil {
		return api.Reservations{}, err
	}
	a := api.Reservations{Reservations: []api.Reservation{}}
	for _, r := range store.List(runner) {
		a.Reservations = append(a.Reservations, publicReservation(r))
	}
	return a, nil
}

func publicReservation(r reserve.Reservation) api.Reservation {
	p := api.Reservation{
		IP: r.Addr, Runner: r.Runner, Name: r.Name, ID: r.ID.String(), State: api.StateReserved, IsUsed: r.InUse,
		TTL: r.TTL.Seconds(), Remaining: r.Left.Seconds(), ExpiresAt: time.Now().Add(r.Left).Round(time.Second),
	}
	if r.InUse {
		p.State = api.StateInUse
	}
	return p
}

// availableAddresses lists free addresses of one runner, or of all with "".
func (h *Host) availableAddresses(name string, limit int) (api.AvailableIPs, error) {
	store, err := h.store()
	if err != nil {
		return api.AvailableIPs{}, err
	}
	names := []string{name}
	if name == "" {
		names = h.names()
	}
	a := api.AvailableIPs{AvailableIPs: make(map[string][]netip.Addr)}
	for _, n := range names {
		free, err := store.Available(n, limit)
		if no, ok := errors.AsType[*reserve.Error](err); ok && name == "" {
			if no.Kind == reserve.NotYet {
				a.Unknown = append(a.Unknown, n)
			}
			continue // or released in the meantime
		}
		if err != nil {
			return api.AvailableIPs{}, refuseReservation(err)
		}
		a.AvailableIPs[n] = free
	}
	return a, nil
}

// names lists the runners by id.
func (h *Host) names() (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, al := range h.table.all() {
		names = append(names, al.Name)
	}
	return names
}

func (h *Host) addressInfo(name string) (api.IPInfo, error) {
	store, err := h.store()
	if err != nil {
		return api.IPInfo{}, err
	}
	i, err := store.Info(name)
	if err != nil {
		return api.IPInfo{}, refuseReservation(err)
	}
	id, _ := h.plan.RunnerOf(i.Pool.First())
	return api.IPInfo{
		RunnerName: name, RunnerID: id, Subnet: h.plan.Subnet(id), Gateway: h.plan.Gateway(id), HostOnSubnet: h.plan.HostOn(id),
		IPRange: api.IPRange{First: i.Pool.First(), Last: i.Pool.Last()},
		Total:   i.Pool.Size(), Available: i.Available, Reserved: i.Reserved, Used: i.Used, Known: i.Known,
	}, nil
}

// handleAddressReads has the calls about addresses that change nothing.
func (h *Host) handleAddressReads(mux *http.ServeMux) {
	mux.HandleFunc("GET "+api.PathIPAvailable, func(w http.ResponseWriter, r *http.Request) {
		name, limit, err := api.DecodeAvailable(r.URL.Query())
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		a, err := h.availableAddresses(name, limit)
		h.reply(w, a, err)
	})
	mux.HandleFunc("GET "+api.PathIPInfo+"{hostname}", func(w http.ResponseWriter, r *http.Request) {
		name, err := nameIn(r)
		if err != nil {
			h.reply(w, nil, err)
			return
		}
		a, err := h.addressInfo(name)
		h.reply(w, a, err)
	})
	mux.HandleFunc("GET "+api.PathIPReservations, func(w http.ResponseWriter, r *http.Request) {
		name, err := api.DecodeRunnerFilter(r.URL.Query())
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		a, err := h.listReservations(name)
		h.reply(w, a, err)
	})
}

// handleAddressWrites has the calls about addresses that change something.
func (h *Host) handleAddressWrites(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathIPReserve, func(w http.ResponseWriter, r *http.Request) {
		q, err := api.DecodeReserve(r.Body, r.URL.Query())
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		a, err := h.reserveAddress(q)
		h.reply(w, a, err)
	})
	mux.HandleFunc("POST "+api.PathIPRelease, func(w http.ResponseWriter, r *http.Request) {
		q, err := api.DecodeReleaseIP(r.Body, r.URL.Query())
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		a, err := h.releaseAddress(q.Token)
		h.reply(w, a, err)
	})
}
