// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"math"
	"net/http"
	"time"

	"kohaku/internal/api"
)

// perfSession is one person's series of measurements. One is under way at a time:
// two would measure each other.
type perfSession struct {
	// Constant.
	token  string
	ctx    context.Context // ends with the session
	cancel context.CancelFunc

	// Guarded by perfDesk.mu.
	expires  time.Time
	stepping bool // it does not expire meanwhile
}

var errNoSession = &refusal{http.StatusNotFound, "there is no such measurement, or it was idle for too long", "begin again"}

// openPerf begins a session, if none is under way.
func (h *Host) openPerf() (api.PerfSession, error) {
	if !h.cfg.Overlay.Enabled {
		return api.PerfSession{}, errDisabled
	}
	if h.opts.Meter == nil {
		return api.PerfSession{}, &refusal{http.StatusNotImplemented, "this Host cannot measure", "run `kohaku host` in place of the program that runs there"}
	}
	d, now := h.perf, h.opts.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.session; s != nil && (s.stepping || now.Before(s.expires)) {
		left := max(s.expires.Sub(now), 0)
		return api.PerfSession{}, &refusal{http.StatusConflict, "busy: another measurement is under way",
			fmt.Sprintf("try again when it has ended; if it was left behind it ends by itself in %.0f s", math.Ceil(left.Seconds()))}
	}
	d.drop()
	s := &perfSession{token: rand.Text(), expires: now.Add(api.PerfLease)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	d.session = s
	h.log.Info("a measurement begins")
	return api.PerfSession{Token: s.token, LeaseSeconds: api.PerfLease.Seconds()}, nil
}

// drop ends the session, if there is one. Guarded by mu.
func (d *perfDesk) drop() {
	if d.session != nil {
		d.session.cancel()
		d.session = nil
	}
}

// closePerf ends a session, and with it a step of it that is under way.
func (h *Host) closePerf(token string) (api.PerfOK, error) {
	d := h.perf
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.session.is(token) {
		return api.PerfOK{}, errNoSession
	}
	d.drop()
	h.log.Info("the measurement is over")
	return api.PerfOK{OK: true}, nil
}

// is compares tokens without telling by its duration how much of one is right.
func (s *perfSession) is(token string) bool {
	return s != nil && subtle.ConstantTimeCompare([]byte(s.token), []byte(token)) == 1
}

// perfStep carries out one step of a session. ctx is the caller's.
func (h *Host) perfStep(ctx context.Context, token string, q api.PerfStep) (api.PerfStepAnswer, error) {
	d := h.perf
	d.mu.Lock()
	s := d.session
	switch {
	case !s.is(token) || !s.stepping && !h.opts.Now().Before(s.expires):
		d.mu.Unlock()
		return api.PerfStepAnswer{}, errNoSession
	case s.stepping:
		d.mu.Unlock()
		return api.PerfStepAnswer{}, &refusal{http.StatusConflict, "busy: a step of this measurement is under way", "one after the other"}
	}
	s.stepping = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		s.stepping, s.expires = false, h.opts.Now().Add(api.PerfLease)
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	return h.measure(ctx, q)
}
