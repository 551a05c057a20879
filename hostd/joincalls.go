// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/trust"
)

var errOpen = &refusal{http.StatusConflict, `this Host has join = "open": there are no tokens and no credentials`,
	`runners join by starting them; for tokens set join = "token" in the [host] section of host.toml and restart the Host`}

// handleJoin adds the calls about joining, credentials and tokens.
func (h *Host) handleJoin(mux *http.ServeMux) {
	joins := trust.NewLimiter(joinBurst, joinEvery, time.Now)
	limited := func(f func(w http.ResponseWriter, r *http.Request)) func(w http.ResponseWriter, r *http.Request) {
		return func(w http.ResponseWriter, r *http.Request) {
			if h.trust == nil {
				h.reply(w, nil, errOpen)
				return
			}
			if !joins.Allow(peerOf(r)) {
				w.Header().Set("Retry-After", fmt.Sprint(int(joinEvery.Seconds())))
				h.reply(w, nil, &refusal{http.StatusTooManyRequests, "too many attempts from this address", fmt.Sprintf("try again in %v", joinEvery)})
				return
			}
			f(w, r)
		}
	}
	mux.HandleFunc("POST "+api.PathJoin, limited(func(w http.ResponseWriter, r *http.Request) {
		q, err := api.DecodeJoin(r.Body)
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		session, err := trust.SessionOf(r.TLS)
		if err != nil {
			h.reply(w, nil, &refusal{http.StatusBadRequest, "a runner joins over TLS: " + err.Error(), ""})
			return
		}
		a, err := h.join(q, session, peerOf(r))
		h.reply(w, a, err)
	}))
	mux.HandleFunc("POST "+api.PathRenew, limited(func(w http.ResponseWriter, r *http.Request) {
		q, err := api.DecodeRenew(r.Body)
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		der, err := h.trust.Renew(callerOf(r).id, q.CSR)
		if err != nil {
			err = refuseTrust(err)
		}
		h.reply(w, api.RenewAnswer{Certificate: der}, err)
	}))
	mux.HandleFunc("GET "+api.PathCredential, func(w http.ResponseWriter, r *http.Request) {
		id := callerOf(r).id
		if id.Name == "" {
			h.reply(w, nil, &refusal{http.StatusNotFound, "the call was made without a credential", ""})
			return
		}
		h.reply(w, api.CredentialAnswer{RunnerName: id.Name, MachineID: id.Machine}, nil)
	})
	mux.HandleFunc("POST "+api.PathRemove+"{hostname}", func(w http.ResponseWriter, r *http.Request) {
		name, err := nameIn(r)
		if err != nil {
			h.reply(w, nil, err)
			return
		}
		a, err := h.remove(name)
		h.reply(w, a, err)
	})
	h.handleTokens(mux)
}

func (h *Host) handleTokens(mux *http.ServeMux) {
	mux.HandleFunc("POST "+api.PathTokens, func(w http.ResponseWriter, r *http.Request) {
		q, err := api.DecodeToken(r.Body)
		if err != nil {
			h.reply(w, nil, badBody(err))
			return
		}
		a, err := h.newToken(q)
		h.reply(w, a, err)
	})
	mux.HandleFunc("GET "+api.PathTokens, func(w http.ResponseWriter, _ *http.Request) {
		a, err := h.tokens()
		h.reply(w, a, err)
	})
	mux.HandleFunc("DELETE "+api.PathTokens+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		a, err := h.revokeToken(r.PathValue("id"))
		h.reply(w, a, err)
	})
}

// join lets a runner in that has a token.
func (h *Host) join(q api.JoinRequest, session trust.Session, from netip.Addr) (api.JoinAnswer, error) {
	claim, proof := q.Claim()
	der, err := h.trust.Admit(proof, session, claim, func(rejoins bool) error { return h.vet(claim, rejoins) })
	if err != nil {
		h.log.Warn("a machine that wanted to join was refused", "runner", q.Hostname, "machine", q.MachineID, "from", from, "token", q.Token, "error", err)
		return api.JoinAnswer{}, refuseTrust(err)
	}
	h.log.Info("a runner has joined and has a credential", "runner", q.Hostname, "machine", q.MachineID, "from", from, "token", q.Token, "version", q.Version)
	return api.JoinAnswer{RunnerName: q.Hostname, Certificate: der}, nil
}

// vet refuses a machine whose name is taken, by what the Host has built. A token
// alone is not enough to take the place of a runner that is alive: what is needed
// for that beside it, name and machine id, is no secret.
func (h *Host) vet(c trust.Claim, rejoins bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	al := h.table.byName[c.Name]
	switch {
	case al == nil:
		return nil
	case al.Machine != c.Machine:
		return &trust.MachineError{Name: c.Name, Have: al.Machine, Got: c.Machine}
	case rejoins && h.table.active(al, h.opts.Now()):
		return &refusal{http.StatusConflict, fmt.Sprintf("runner %q has a credential and is alive; another one would take its place", c.Name),
			fmt.Sprintf("if it lost its credential, stop it and try again in %v; or run on the Host: kohaku node remove %s", h.table.timeout, c.Name)}
	}
	return nil
}

// remove revokes a runner's credential and frees its allocation.
func (h *Host) remove(name string) (api.RemoveAnswer, error) {
	a := api.RemoveAnswer{Removed: name}
	if h.trust != nil {
		// First: from here on it cannot register again.
		var err error
		if a.HadCredential, err = h.trust.Remove(name); err != nil {
			return a, refuseTrust(err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	al := h.table.byName[name]
	if al == nil && !a.HadCredential {
		return a, &refusal{http.StatusNotFound, fmt.Sprintf("the Host has no runner %q", name), "`kohaku node overlay` lists them"}
	}
	if al != nil {
		a.RunnerID = al.ID
		return a, h.free(al)
	}
	return a, nil
}

func (h *Host) newToken(q api.TokenRequest) (api.NewToken, error) {
	if h.trust == nil {
		return api.NewToken{}, errOpen
	}
	t, info, err := h.trust.NewToken(q.TTL(), q.Uses)
	if err != nil {
		return api.NewToken{}, refuseTrust(err)
	}
	return api.NewToken{Token: tokenOf(info, true), Secret: t.Reveal(), Command: h.joinCommand(t)}, nil
}

func (h *Host) tokens() (api.TokenList, error) {
	if h.trust == nil {
		return api.TokenList{}, errOpen
	}
	list := api.TokenList{Tokens: []api.Token{}}
	infos, valid := h.trust.Tokens()
	for i, info := range infos {
		list.Tokens = append(list.Tokens, tokenOf(info, valid[i]))
	}
	return list, nil
}

func tokenOf(t trust.TokenInfo, valid bool) api.Token {
	state := "valid"
	switch {
	case valid:
	case t.UsedUp():
		state = "used up"
	default:
		state = "expired"
	}
	return api.Token{ID: t.ID, Valid: valid, State: state, Made: t.Made, Expires: t.Expires, Uses: t.Uses, Used: t.Used}
}

func (h *Host) revokeToken(id string) (api.TokenRevoked, error) {
	if h.trust == nil {
		return api.TokenRevoked{}, errOpen
	}
	if err := trust.CheckTokenID(id); err != nil {
		return api.TokenRevoked{}, &refusal{http.StatusBadRequest, err.Error(), ""}
	}
	if err := h.trust.RevokeToken(id); err != nil {
		return api.TokenRevoked{}, refuseTrust(err)
	}
	return api.TokenRevoked{Revoked: id}, nil
}
