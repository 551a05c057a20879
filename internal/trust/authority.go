// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/internal/statefile"
)

// Ages of a credential, counted in the Host's running time.
const (
	// RenewAfter is the age at which the Host asks a Runner to renew.
	RenewAfter = 30 * 24 * time.Hour
	// ExpireAfter is the age at which it is refused. A Runner that is up renews
	// long before.
	ExpireAfter = 400 * 24 * time.Hour
)

// saveEvery is how often the running time is stored: what a crash loses of it.
const saveEvery = time.Hour

// keepExpired is how long a token is remembered after its end, so that who uses it
// learns that it has expired.
const keepExpired = 7 * 24 * time.Hour

// Clock is the time. A Host's calendar may be wrong and may jump; Mono does not.
type Clock struct {
	Mono func() time.Duration // since some fixed point, never backwards
	Wall func() time.Time
}

// systemClock counts the time that the machine was suspended, too
// (CLOCK_BOOTTIME, clock_gettime(2)).
func systemClock() Clock {
	mono := func() time.Duration {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
			panic(err) // every Linux since 2.6.39 has it
		}
		return time.Duration(t.Nano())
	}
	return Clock{Mono: mono, Wall: time.Now}
}

// Options are an Authority's surroundings.
type Options struct {
	Dir   string // the Host's state directory
	Log   *slog.Logger
	Clock Clock // zero: the machine's
}

// Authority is the Host's side: the CA, the tokens, and the list of credentials
// that are valid. It is safe for concurrent use.
//
// Every change is stored before it counts, as a whole; one that cannot be stored
// is a *StoreError and was not made.
//
// Time is the Host's own, the time that it has been running, which a wrong clock
// cannot change. A token loses, beside that, the time that the Host did not run, by
// the calendar: setting the clock back gives a token no more life than it had, and
// setting it forward takes life from it at the next start at the earliest.
type Authority struct {
	// Constant.
	ca     ca
	isNew  bool
	path   string
	log    *slog.Logger
	clock  Clock
	ran    span // as of opened
	opened time.Duration

	change sync.Mutex // held by who makes a new state
	state  atomic.Pointer[state]
}

// Open reads what is in the state directory, and makes the CA where there is none.
// Of a damaged file the log says where it was put, and what that means.
func Open(o Options) (*Authority, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Clock.Mono == nil {
		o.Clock = systemClock()
	}
	c, isNew, err := openCA(o.Dir, o.Log)
	if err != nil {
		return nil, err
	}
	a := &Authority{ca: c, isNew: isNew, path: filepath.Join(o.Dir, StateFile), log: o.Log, clock: o.Clock, opened: o.Clock.Mono()}
	s, err := a.read()
	if err != nil {
		return nil, err
	}
	a.ran = s.Ran
	a.state.Store(s)
	return a, nil
}

// read gives the stored state, or a fresh one where there is none that can be used.
func (a *Authority) read() (*state, error) {
	fresh := &state{Version: stateVersion, CA: a.Fingerprint().String(), Tokens: []token{}, Runners: []member{}, Rebuilt: !a.isNew}
	data, err := statefile.Read(a.path, maxState)
	if errors.Is(err, fs.ErrNotExist) {
		if fresh.Rebuilt {
			a.log.Warn("the list of tokens and credentials is gone: runners that this Host still has a VXLAN device for keep theirs, tokens are void", "file", a.path)
		}
		return fresh, nil
	}
	var s *state
	if err == nil {
		if s, err = decodeState(data); err == nil && s.CA != fresh.CA {
			err = fmt.Errorf("it belongs to the CA %s, this Host's is %s", s.CA, fresh.CA)
		}
	} else if !errors.Is(err, statefile.ErrTooLarge) {
		return nil, fmt.Errorf("read the tokens and credentials: %w", err)
	}
	if err != nil {
		aside, asideErr := statefile.SetAside(a.path)
		if asideErr != nil {
			return nil, fmt.Errorf("the list of tokens and credentials is damaged: %w; %w", err, asideErr)
		}
		a.log.Error("the list of tokens and credentials is damaged: runners that this Host still has a VXLAN device for keep theirs, tokens are void",
			"file", a.path, "set_aside", aside, "error", err)
		return fresh, nil
	}
	if down := a.clock.Wall().Sub(s.Saved); down > 0 {
		for i := range s.Tokens {
			s.Tokens[i].Ends -= span(min(down, maxSpan))
		}
	}
	return s, nil
}

// IsNew reports whether Open made the CA: this is the Host's first start.
func (a *Authority) IsNew() bool { return a.isNew }

// Fingerprint is the CA's.
func (a *Authority) Fingerprint() Fingerprint { return fingerprint(a.ca.cert) }

// now is the time on the Host's own scale.
func (a *Authority) now() span { return a.ran + span(a.clock.Mono()-a.opened) }

// ServerTLS is the configuration of the API's server. names and addrs are written
// into its certificate for the use of other tools: Runners look for ServerName.
// Clients may do without a certificate, and one that they have is not judged yet:
// that is Check's, whose refusals are worth reading.
func (a *Authority) ServerTLS(names []string, addrs []netip.Addr) (*tls.Config, error) {
	cert, err := a.ca.server(names, addrs)
	if err != nil {
		return nil, fmt.Errorf("make the API's certificate: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		ClientAuth: tls.RequestClientCert,
		// Resuming saves little, and every connection is to show its certificate.
		SessionTicketsDisabled: true,
	}, nil
}

// Run keeps the running time until ctx ends.
func (a *Authority) Run(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if err := a.Save(); err != nil {
			a.log.Warn("the Host's running time, by which credentials age, was not stored", "error", err)
		}
	}
}

// Save stores the running time. A Host that has nothing to remember has no file.
func (a *Authority) Save() error {
	s := a.state.Load()
	if len(s.Tokens) == 0 && len(s.Runners) == 0 && s.Saved.IsZero() {
		return nil
	}
	return a.update(func(*state) error { return nil })
}

// errUnchanged ends an update that has nothing to do.
var errUnchanged = errors.New("unchanged")

// update makes a new state of a copy of the present one. An error of f, or of
// storing, leaves everything as it was.
func (a *Authority) update(f func(s *state) error) error {
	a.change.Lock()
	defer a.change.Unlock()
	s := a.state.Load().clone()
	if err := f(s); err != nil {
		if errors.Is(err, errUnchanged) {
			return nil
		}
		return err
	}
	s.prune(a.now())
	s.Ran, s.Saved = a.now(), a.clock.Wall().UTC().Round(0)
	data, err := s.encode()
	if err == nil {
		err = statefile.Write(a.path, data, 0o600)
	}
	if err != nil {
		return &StoreError{err}
	}
	a.state.Store(s)
	return nil
}

// prune forgets tokens that expired long ago.
func (s *state) prune(now span) {
	kept := s.Tokens[:0]
	for _, t := range s.Tokens {
		if now-t.Ends < span(keepExpired) {
			kept = append(kept, t)
		}
	}
	s.Tokens = kept
}
