// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"fmt"
	"net/http"
	"time"

	"kohaku/internal/api"
)

// handlePerf adds the calls for measurements.
func (h *Host) handlePerf(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathPerfSession, func(w http.ResponseWriter, _ *http.Request) {
		a, err := h.openPerf()
		h.reply(w, a, err)
	})
	mux.HandleFunc("POST "+api.PathPerfSession+"/{token}", func(w http.ResponseWriter, r *http.Request) {
		token, err := tokenIn(r)
		if err != nil {
			h.reply(w, nil, err)
			return
		}
		q, err := api.DecodePerfStep(r.Body)
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		takeTime(w, time.Duration(q.Seconds*float64(time.Second))+perfStart+perfConnect+perfServed)
		a, err := h.perfStep(r.Context(), token, q)
		h.reply(w, a, err)
	})
	mux.HandleFunc("DELETE "+api.PathPerfSession+"/{token}", func(w http.ResponseWriter, r *http.Request) {
		token, err := tokenIn(r)
		if err != nil {
			h.reply(w, nil, err)
			return
		}
		a, err := h.closePerf(token)
		h.reply(w, a, err)
	})
	mux.HandleFunc("POST "+api.PathPerfTasks+"{hostname}", func(w http.ResponseWriter, r *http.Request) {
		name, err := nameIn(r)
		if err != nil {
			h.reply(w, nil, err)
			return
		}
		p, err := api.DecodePerfPoll(r.Body)
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		if err := h.checkPerfRunner(name, p); err != nil {
			h.reply(w, nil, err)
			return
		}
		takeTime(w, api.PerfHold)
		tasks := h.perf.fetch(r.Context(), name, api.PerfHold)
		if tasks == nil {
			tasks = []api.PerfTask{}
		}
		h.reply(w, api.PerfTasks{Tasks: tasks}, nil)
	})
	mux.HandleFunc("POST "+api.PathPerfReport+"{hostname}", func(w http.ResponseWriter, r *http.Request) {
		name, err := nameIn(r)
		if err != nil {
			h.reply(w, nil, err)
			return
		}
		p, err := api.DecodePerfReport(r.Body)
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		err = h.checkPerfRunner(name, api.PerfPoll{MachineID: p.MachineID, RunnerID: p.RunnerID})
		if err == nil && !h.perf.take(name, p) {
			err = &refusal{http.StatusNotFound, "nobody waits for that measurement", ""}
		}
		h.reply(w, api.PerfOK{OK: true}, err)
	})
}

// takeTime lets a call take longer than others, by d. Where the connection cannot
// be told, as in tests without one, nothing limits it.
func takeTime(w http.ResponseWriter, d time.Duration) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(d + readTimeout))
	_ = c.SetWriteDeadline(time.Now().Add(d + writeTimeout))
}

func tokenIn(r *http.Request) (string, error) {
	token := r.PathValue("token")
	if err := api.CheckPerfToken(token); err != nil {
		return "", &refusal{http.StatusBadRequest, err.Error(), ""}
	}
	return token, nil
}

// checkPerfRunner refuses who is not the runner that he says he is.
func (h *Host) checkPerfRunner(name string, p api.PerfPoll) error {
	if !h.cfg.Overlay.Enabled {
		return errDisabled
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	al := h.table.byName[name]
	switch {
	case al == nil || al.ID != p.RunnerID:
		return &refusal{http.StatusNotFound, fmt.Sprintf("the Host has no runner %q with id %d", name, p.RunnerID), "register again"}
	case al.Machine != p.MachineID:
		return refuse(&ConflictError{Name: name, Have: al.Machine, Got: p.MachineID})
	}
	return nil
}
