// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/trust"
)

// access is who may make a call over the network when join = "token". By the admin
// socket all calls are answered.
type access int

const (
	accessAdmin  access = iota // nobody: it is for the admin socket
	accessRead                 // who has a valid credential, whatever its name
	accessSelf                 // the Runner that the call is about
	accessPublic               // everybody
)

// accessOf tells it by the pattern that the call was entered with. What does not
// stand here is for the admin socket alone.
var accessOf = map[string]access{
	"GET " + api.PathHealth: accessPublic,
	"POST " + api.PathJoin:  accessPublic,
	"/":                     accessPublic, // there is no such call

	"POST " + api.PathRegister:                  accessSelf,
	"PUT " + api.PathHeartbeat + "{hostname}":   accessSelf,
	"POST " + api.PathPerfTasks + "{hostname}":  accessSelf,
	"POST " + api.PathPerfReport + "{hostname}": accessSelf,
	"POST " + api.PathRenew:                     accessSelf,
	"GET " + api.PathCredential:                 accessSelf,

	"GET " + api.PathStatus:                accessRead,
	"GET " + api.PathIPAvailable:           accessRead,
	"GET " + api.PathIPInfo + "{hostname}": accessRead,
	"GET " + api.PathIPReservations:        accessRead,
	"GET " + api.PathMetrics:               accessRead,
}

// caller is who makes a call, as far as the connection tells. The zero caller is
// somebody who may do everything: root on this machine, or anybody when join =
// "open".
type caller struct {
	id     trust.Identity
	access access
	renew  bool // the credential is to be renewed
}

type callerKey struct{}

// callerOf gives the one that guard found.
func callerOf(r *http.Request) caller {
	c, _ := r.Context().Value(callerKey{}).(caller)
	return c
}

// mustBe refuses a Runner that makes a call about another one.
func (c caller) mustBe(name string) error {
	if c.access != accessSelf || c.id.Name == name {
		return nil
	}
	return &refusal{http.StatusForbidden, "the credential is that of runner " + c.id.Name + ", and the call is about " + name,
		"a runner speaks for itself alone; after a change of its name it has to join anew (kohaku token new, on the Host)"}
}

// mayRegister refuses a registration for another name or machine than those in the
// credential.
func (c caller) mayRegister(q api.RegisterRequest) error {
	if err := c.mustBe(q.Hostname); err != nil || c.access != accessSelf || c.id.Machine == q.MachineID {
		return err
	}
	return &refusal{http.StatusForbidden, fmt.Sprintf("the credential of runner %q is for the machine %s; this is the machine %s", c.id.Name, c.id.Machine, q.MachineID),
		"was state_dir copied from another machine, or this one installed anew? Remove " + trust.CredentialFile + " from it and join anew: " + hintRejoin}
}

type adminKey struct{}

// markAdmin marks the requests of connections that come by the admin socket.
func markAdmin(ctx context.Context, c net.Conn) context.Context {
	if _, ok := c.(*net.UnixConn); ok {
		return context.WithValue(ctx, adminKey{}, true)
	}
	return ctx
}

const hintRejoin = "on the Host, `kohaku token new` prints the command to run there"

// guard lets those calls through that their caller may make.
func (h *Host) guard(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.trust == nil || r.Context().Value(adminKey{}) != nil {
			mux.ServeHTTP(w, r)
			return
		}
		_, pattern := mux.Handler(r)
		c := caller{access: accessOf[pattern]}
		if err := h.identify(&c, r); err != nil {
			h.reply(w, nil, err)
			return
		}
		mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

// identify finds out who calls, where that matters.
func (h *Host) identify(c *caller, r *http.Request) error {
	if c.access == accessPublic {
		return nil
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return &refusal{http.StatusUnauthorized, "this call needs a credential, which a machine gets by joining", hintRejoin}
	}
	var err error
	if c.id, c.renew, err = h.trust.Check(r.TLS.PeerCertificates[0], h.machineOf); err != nil {
		return refuseTrust(err)
	}
	if c.access == accessAdmin {
		return &refusal{http.StatusForbidden, "this call is for the administrator of the Host",
			"run the command on the Host, as root: there it goes by the admin socket " + h.cfg.Host.SocketPath()}
	}
	return nil
}

// machineOf tells which machine a runner's VXLAN device is for.
func (h *Host) machineOf(name string) (string, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	al := h.table.byName[name]
	if al == nil {
		return "", false
	}
	return al.Machine, true
}

// refuseTrust turns an error of package trust into an answer.
func refuseTrust(err error) error {
	no := &refusal{text: err.Error()}
	machine, isMachine := errors.AsType[*trust.MachineError](err)
	_, isStore := errors.AsType[*trust.StoreError](err)
	const another = "`kohaku token new` on the Host makes another one"
	switch {
	case errors.Is(err, trust.ErrForeign), errors.Is(err, trust.ErrRevoked), errors.Is(err, trust.ErrReplaced), errors.Is(err, trust.ErrStale):
		no.code, no.hint = http.StatusUnauthorized, "join anew: "+hintRejoin
	case errors.Is(err, trust.ErrWrongToken):
		no.code, no.hint = http.StatusForbidden, "was it revoked? "+another
	case errors.Is(err, trust.ErrExpired), errors.Is(err, trust.ErrUsedUp):
		no.code, no.hint = http.StatusForbidden, another
	case errors.Is(err, trust.ErrReplayed):
		no.code, no.hint = http.StatusForbidden, "join over a direct connection; if nobody tried to, somebody listens in on the network: revoke the token"
	case errors.Is(err, trust.ErrNoToken):
		no.code, no.hint = http.StatusNotFound, "`kohaku token list` shows them"
	case errors.Is(err, trust.ErrTooMany):
		no.code, no.hint = http.StatusConflict, "revoke some: kohaku token revoke ID"
	case errors.Is(err, trust.ErrNotCSR):
		no.code, no.hint = http.StatusBadRequest, "is the same version of kohaku at both ends?"
	case isMachine:
		no.code, no.hint = http.StatusConflict, hintOtherMachine(machine.Name)
	case isStore:
		no.code, no.hint = http.StatusServiceUnavailable, "see to it that state_dir of the Host can be written (df, mount), then try again"
	default:
		return err
	}
	return no
}

func hintOtherMachine(name string) string {
	return "give this machine another hostname or `name`; or, if it replaces the other one, run on the Host: kohaku node remove " + name
}

// open reports whether everybody may make all calls.
func open(cfg *conf.Host) bool { return cfg.Host.Join == conf.JoinOpen }
