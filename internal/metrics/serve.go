// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"kohaku/internal/api"
)

// Limits of the server. Whoever scrapes is few and quick.
const (
	timeout     = 10 * time.Second
	connections = 32
	header      = 8 << 10
	// retry lies between two tries to listen.
	retry = 5 * time.Second
)

// Health answers GET /healthz: 200, or 503 with the reasons, which wrong gives as
// sentences.
func Health(wrong func() []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h, code := api.Health{Status: "ok"}, http.StatusOK
		if reasons := wrong(); len(reasons) > 0 {
			h, code = api.Health{Status: "unhealthy", Reasons: reasons}, http.StatusServiceUnavailable
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		// Who asked and went away needs no answer.
		_ = json.NewEncoder(w).Encode(h)
	})
}

// Serve answers GET /metrics and GET /healthz over plain HTTP on an address, until
// ctx ends. An address that is not to be had is said through report and tried again
// and again: a daemon that nobody can watch still works. A zero address, or a nil
// Set, is nothing to do.
func (s *Set) Serve(ctx context.Context, at netip.AddrPort, health http.Handler, log *slog.Logger, report func(error)) {
	if s == nil || !at.IsValid() {
		return
	}
	mux := http.NewServeMux()
	mux.Handle("GET "+api.PathMetrics, s.Handler())
	mux.Handle("GET "+api.PathHealth, health)
	for ctx.Err() == nil {
		l, err := listen(ctx, at)
		report(err)
		if err == nil {
			log.Debug("metrics are served", "at", l.Addr())
			err = serve(ctx, l, mux, log)
			report(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
}

func listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", at.String())
	const remedy = "write another address as `metrics`, or \"off\""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("serve metrics on %s: the port is taken (ss -tlnp 'sport = :%d' shows by whom; %s)", at, at.Port(), remedy)
	case err != nil:
		return nil, fmt.Errorf("serve metrics on %s: %w (%s)", at, err, remedy)
	}
	return netutil.LimitListener(l, connections), nil
}

func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler: h, ReadTimeout: timeout, ReadHeaderTimeout: timeout, WriteTimeout: timeout, IdleTimeout: time.Minute,
		MaxHeaderBytes: header, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	end := context.AfterFunc(ctx, func() { server.Close() })
	defer end()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
