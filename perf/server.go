// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"kohaku/perf/iperf"
)

const (
	// cookieTimeout is how long a new connection may take to say who it is.
	cookieTimeout = 5 * time.Second
	// maxPending bounds connections that have not said so yet; more are dropped.
	maxPending = 256
)

// Serve answers iperf3 clients and ours on one TCP port and the UDP port of the
// same number, one test at a time, until ctx is done; then a running test's
// client is told and Serve returns nil. With OneOff it returns after one test,
// with that test's error. Otherwise an error means that it cannot listen.
func Serve(ctx context.Context, cfg ServerConfig) error {
	if cfg.Interval != 0 && cfg.Interval < MinInterval {
		return fmt.Errorf("interval %v: give at least %v", cfg.Interval, MinInterval)
	}
	if cfg.MaxDuration == 0 {
		cfg.MaxDuration = iperf.MaxDuration * time.Second
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = 2 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	ln := cfg.Listener
	if ln == nil {
		var err error
		if ln, err = listen(cfg.Listen); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &server{cfg: cfg, cancel: cancel, pending: make(chan struct{}, maxPending)}
	if cfg.OnListen != nil {
		cfg.OnListen(ln.Addr().(*net.TCPAddr).AddrPort())
	}
	unhook := context.AfterFunc(ctx, func() { ln.Close() })
	defer unhook()
	defer ln.Close()
	err := s.accept(ctx, ln)
	s.wg.Wait()
	var over *oneOffOver
	if errors.As(context.Cause(ctx), &over) {
		return over.err
	}
	return err
}

// oneOffOver ends a OneOff server, with its test's error.
type oneOffOver struct{ err error }

func (*oneOffOver) Error() string { return "the one test is over" }

func listen(at netip.AddrPort) (*net.TCPListener, error) {
	if at.Port() == 0 {
		at = netip.AddrPortFrom(at.Addr(), iperf.DefaultPort)
	}
	addr := &net.TCPAddr{Port: int(at.Port())}
	if at.Addr().IsValid() {
		addr.IP, addr.Zone = at.Addr().AsSlice(), at.Addr().Zone()
	}
	ln, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening for perf clients: %w; another server may use the port: choose one with --port", err)
	}
	return ln, nil
}

type server struct {
	cfg     ServerConfig
	cancel  context.CancelCauseFunc
	wg      sync.WaitGroup
	pending chan struct{}

	mu  sync.Mutex
	cur *session // the running test
}

// accept hands every connection to a goroutine until the listener is closed.
func (s *server) accept(ctx context.Context, ln *net.TCPListener) error {
	for order := uint64(0); ; order++ {
		conn, err := ln.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accepting perf clients: %w", err)
			}
			// Out of descriptors, or a client that gave up already.
			s.cfg.Log.Warn("a perf client could not be accepted", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(pollEvery):
			}
			continue
		}
		select {
		case s.pending <- struct{}{}:
			s.wg.Go(func() { s.meet(ctx, arrival{conn, order}) })
		default:
			conn.Close()
		}
	}
}

// meet finds out what a new connection wants: it is a stream of the running
// test, one of its many short connections, or a new client.
func (s *server) meet(ctx context.Context, a arrival) {
	conn := a.conn
	waiting := true
	release := func() {
		if waiting {
			<-s.pending
			waiting = false
		}
	}
	defer release()
	from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	if !s.allowed(from.Addr()) {
		s.cfg.Log.Warn("a perf client from an address that is not allowed", "client", from)
		deny(conn)
		return
	}
	unhook := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })
	_ = conn.SetReadDeadline(time.Now().Add(cookieTimeout))
	cookie, err := iperf.ReadCookie(conn)
	if !unhook() || err != nil {
		if err != nil && !errors.Is(err, io.EOF) {
			s.cfg.Log.Debug("a connection that is no perf client", "client", from, "err", err)
		}
		conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})

	cur, ours := s.claim(ctx, a, cookie)
	if !ours {
		if cur == nil || !cookie.Equal(cur.cookie) || !cur.take(a) {
			s.cfg.Log.Info("a perf client was turned away: a test is running", "client", from)
			deny(conn)
		}
		return
	}
	release()
	err = cur.run()
	s.mu.Lock()
	s.cur = nil
	s.mu.Unlock()
	close(cur.over)
	if s.cfg.OneOff {
		s.cancel(&oneOffOver{err})
	}
}

// claim makes a new session of a connection if none is running; else it gives
// the one that is. It waits for a session that is about to end, so that a client
// that measures several times in a row does not meet itself.
func (s *server) claim(ctx context.Context, a arrival, cookie iperf.Cookie) (cur *session, ours bool) {
	for {
		s.mu.Lock()
		cur = s.cur
		if cur == nil {
			cur = newSession(ctx, s, a.conn, cookie)
			s.cur = cur
			s.mu.Unlock()
			return cur, true
		}
		s.mu.Unlock()
		if !cur.ending() {
			return cur, false
		}
		select {
		case <-cur.over:
		case <-ctx.Done():
			return nil, false
		}
	}
}

func (s *server) allowed(a netip.Addr) bool {
	if len(s.cfg.Allow) == 0 {
		return true
	}
	a = a.Unmap().WithZone("")
	for _, p := range s.cfg.Allow {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// deny says that the server is busy and closes the connection, after the client
// had the time to read it: a close with unread data would discard the answer.
func deny(conn *net.TCPConn) {
	defer conn.Close()
	state := iperf.AccessDenied
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte{byte(state)}); err != nil {
		return
	}
	_ = conn.CloseWrite()
	_, _ = io.CopyN(io.Discard, conn, 4096)
}
