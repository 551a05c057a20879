// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/metrics"
)

// Limits of the API's server. A runner's calls are small and quick.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 15 * time.Second
	idleTimeout   = 60 * time.Second
	maxHeader     = 16 << 10
)

func (h *Host) server() *http.Server {
	return &http.Server{
		Handler:           h.handler(),
		ConnContext:       markAdmin,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
}

func (h *Host) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+api.PathRegister, func(w http.ResponseWriter, r *http.Request) {
		q, err := api.DecodeRegister(r.Body)
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		if err := callerOf(r).mayRegister(q); err != nil {
			h.reply(w, nil, err)
			return
		}
		a, err := h.register(q, peerOf(r))
		h.reply(w, a, err)
	})
	mux.HandleFunc("PUT "+api.PathHeartbeat+"{hostname}", func(w http.ResponseWriter, r *http.Request) {
		name, err := nameIn(r)
		if err != nil {
			h.reply(w, nil, err)
			return
		}
		b, err := api.DecodeHeartbeat(r.Body)
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		a, err := h.heartbeat(name, b)
		a.RenewCredential = callerOf(r).renew
		h.reply(w, a, err)
	})
	mux.HandleFunc("GET "+api.PathStatus, func(w http.ResponseWriter, _ *http.Request) {
		h.reply(w, h.status(), nil)
	})
	mux.HandleFunc("POST "+api.PathRelease+"{hostname}", func(w http.ResponseWriter, r *http.Request) {
		name, err := nameIn(r)
		if err != nil {
			h.reply(w, nil, err)
			return
		}
		a, err := h.release(name)
		h.reply(w, a, err)
	})
	mux.HandleFunc("POST "+api.PathCleanup, func(w http.ResponseWriter, _ *http.Request) {
		a, err := h.cleanup()
		h.reply(w, a, err)
	})
	h.handlePerf(mux)
	h.handleJoin(mux)
	h.handleAddressReads(mux)
	h.handleAddressWrites(mux)
	mux.Handle("GET "+api.PathHealth, metrics.Health(h.unhealthy))
	if h.opts.Metrics != nil {
		mux.Handle("GET "+api.PathMetrics, h.opts.Metrics.Handler())
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		h.reply(w, nil, &refusal{http.StatusNotFound, "there is no call " + r.Method + " " + api.Printable(r.URL.Path), "the calls begin with /api/"})
	})
	return h.opts.Metrics.API(mux, h.guard(mux))
}

// reply sends the answer, or the error in the API's form.
func (h *Host) reply(w http.ResponseWriter, answer any, err error) {
	code := http.StatusOK
	if err != nil {
		no, ok := errors.AsType[*refusal](err)
		if !ok {
			no = &refusal{code: http.StatusInternalServerError, text: err.Error()}
		}
		code, answer = no.code, api.ErrorBody{Error: api.Printable(no.text), Hint: api.Printable(no.hint)}
	}
	data, err := json.MarshalIndent(answer, "", "  ")
	if err != nil {
		h.log.Error("encode an answer", "error", err)
		http.Error(w, `{"error": "the answer could not be encoded", "hint": ""}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// A caller that went away needs no answer.
	_, _ = w.Write(append(data, '\n'))
}

func badBody(err error) error {
	if errors.Is(err, api.ErrBodyTooLarge) {
		return &refusal{http.StatusRequestEntityTooLarge, err.Error(), ""}
	}
	return &refusal{http.StatusBadRequest, err.Error(), "is the same version of kohaku at both ends?"}
}

func nameIn(r *http.Request) (string, error) {
	name, err := api.CanonicalHostname(r.PathValue("hostname"))
	if err != nil {
		return "", &refusal{http.StatusBadRequest, err.Error(), ""}
	}
	return name, callerOf(r).mustBe(name)
}

// peerOf is the address that the call came from.
func peerOf(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
