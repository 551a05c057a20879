// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"kohaku/internal/problem"
)

const (
	// FactsPort is where containers ask their Runner about the overlay, at the
	// gateway's address.
	FactsPort = 8001
	// PathFacts is answered with Facts as JSON, PathFactsEnv with lines for
	// `docker run --env-file`.
	PathFacts    = "/overlay"
	PathFactsEnv = "/overlay/env"

	factsTimeout     = 5 * time.Second
	factsConnections = 64
	factsHeader      = 4 << 10
)

// Facts are what a container may want to know of the overlay that it is in.
type Facts struct {
	RunnerName string       `json:"runner_name"`
	RunnerID   int          `json:"runner_id"`
	Overlay    netip.Prefix `json:"overlay"`
	Subnet     netip.Prefix `json:"subnet"`  // the Runner's
	Gateway    netip.Addr   `json:"gateway"` // the Runner's, on its subnet
	Host       netip.Addr   `json:"host"`    // the Host's overlay address, KOHAKU_GATEWAY
	MTU        int          `json:"mtu"`     // bytes
	Network    string       `json:"network"` // Docker's name for it
}

// Env gives the facts as lines KEY=value, as `docker run --env-file` reads them.
func (f Facts) Env() string {
	var b strings.Builder
	for _, v := range []struct {
		key   string
		value any
	}{
		{"KOHAKU_GATEWAY", f.Host},
		{"KOHAKU_RUNNER", f.RunnerName},
		{"KOHAKU_RUNNER_ID", f.RunnerID},
		{"KOHAKU_RUNNER_GATEWAY", f.Gateway},
		{"KOHAKU_OVERLAY", f.Overlay},
		{"KOHAKU_SUBNET", f.Subnet},
		{"KOHAKU_MTU", f.MTU},
		{"KOHAKU_NETWORK", f.Network},
	} {
		fmt.Fprintf(&b, "%s=%v\n", v.key, v.value)
	}
	return b.String()
}

// factServer answers containers at the gateway's address.
type factServer struct {
	log      *slog.Logger
	problems *problem.Set
	open     func(context.Context, netip.AddrPort) (net.Listener, error)
	changed  chan struct{} // has a token when facts became others

	mu    sync.Mutex
	facts Facts
}

func newFactServer(o Options, problems *problem.Set) *factServer {
	return &factServer{log: o.Log, problems: problems, open: o.ListenFacts, changed: make(chan struct{}, 1)}
}

// serve says what is to be served from now on. It returns at once.
func (f *factServer) serve(now Facts) {
	f.mu.Lock()
	same := f.facts == now
	f.facts = now
	f.mu.Unlock()
	if !same {
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
}

func (f *factServer) now() Facts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.facts
}

// run serves, at one address after the other, until ctx ends.
func (f *factServer) run(ctx context.Context) {
	var at netip.Addr
	var stop func()
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.changed:
		case <-retry:
		}
		retry = nil
		want := f.now().Gateway
		if want == at || !want.IsValid() {
			continue
		}
		if stop != nil {
			stop()
			at, stop = netip.Addr{}, nil
		}
		end, err := f.listen(ctx, want)
		f.problems.Set("facts", err)
		if err != nil {
			retry = time.After(factsTimeout)
			continue
		}
		at, stop = want, end
	}
}

// listenFacts opens the listener. One that may bind to an address which is not there
// yet outlives the bridge: it answers again when that is back.
func listenFacts(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) { inner = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
		return cmp.Or(err, inner)
	}}
	l, err := config.Listen(ctx, "tcp", at.String())
	if errors.Is(err, syscall.EADDRINUSE) {
		err = fmt.Errorf("%w (ss -tlnp 'sport = :%d' shows who has the port)", err, at.Port())
	}
	return l, err
}

// listen serves at one address.
func (f *factServer) listen(ctx context.Context, at netip.Addr) (stop func(), err error) {
	addr := netip.AddrPortFrom(at, FactsPort)
	l, err := f.open(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("tell containers about the overlay at http://%s%s: %w", addr, PathFacts, err)
	}
	server := &http.Server{
		Handler:           f.handler(),
		ReadHeaderTimeout: factsTimeout, ReadTimeout: factsTimeout, WriteTimeout: factsTimeout, IdleTimeout: factsTimeout,
		MaxHeaderBytes: factsHeader,
		ErrorLog:       slog.NewLogLogger(f.log.Handler(), slog.LevelDebug),
	}
	server.SetKeepAlivesEnabled(false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(netutil.LimitListener(l, factsConnections)); !errors.Is(err, http.ErrServerClosed) {
			f.log.Warn("containers are not told about the overlay any more", "address", addr, "error", err)
		}
	}()
	f.log.Info("containers find facts of the overlay", "url", "http://"+addr.String()+PathFacts)
	return func() { server.Close(); <-ended }, nil
}

// handler answers GET and HEAD, and only to the overlay: other machines that route
// to the gateway have no business here.
func (f *factServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PathFacts, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// The client may be gone, which is its own affair.
		_ = json.NewEncoder(w).Encode(f.now())
	})
	mux.HandleFunc("GET "+PathFactsEnv, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = io.WriteString(w, f.now().Env())
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil || !f.now().Overlay.Contains(from.Addr().Unmap()) {
			http.Error(w, "for containers on the overlay only", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
