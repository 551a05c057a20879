// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"kohaku/internal/trust"
)

// Bounds on connections to the API's port. A Runner needs up to four.
const (
	maxConnsPerAddress = 64
	spareConns         = 1024 // beside four for each possible Runner
	maxConns           = 16384

	// failedBurst handshakes of one address may fail, and one more in every
	// failedEvery; beyond that its connections are closed as they come.
	failedBurst = 20
	failedEvery = time.Second
)

// gate is a listener that bounds how many connections there are, of one address and
// of all, and turns addresses away whose handshakes keep failing.
type gate struct {
	net.Listener
	// Constant.
	tls    *tls.Config // nil: plain
	max    int
	failed *trust.Limiter
	told   *trust.Limiter // how often the log is told
	log    *slog.Logger

	mu    sync.Mutex
	total int
	per   map[netip.Addr]int
}

// newGate stands before l. runners is how many there may be.
func newGate(l net.Listener, config *tls.Config, runners int, log *slog.Logger) *gate {
	g := &gate{
		Listener: l, max: min(4*runners+spareConns, maxConns), log: log, per: make(map[netip.Addr]int),
		failed: trust.NewLimiter(failedBurst, failedEvery, time.Now),
		told:   trust.NewLimiter(1, time.Minute, time.Now),
	}
	if config != nil {
		g.tls = config.Clone()
		g.tls.GetConfigForClient = g.watch
	}
	return g
}

// watch has the connection note that its handshake succeeded.
func (g *gate) watch(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	config := g.tls.Clone()
	config.GetConfigForClient = nil
	if c, ok := hello.Conn.(*gatedConn); ok {
		config.VerifyConnection = func(tls.ConnectionState) error {
			c.greeted.Store(true)
			return nil
		}
	}
	return config, nil
}

// Accept gives the next connection that is let in. With TLS it is a *tls.Conn,
// which is how http.Server knows.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var from netip.Addr
		if ap, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			from = ap.Addr().Unmap()
		}
		if why := g.enter(from); why != "" {
			if g.told.Allow(from) {
				g.log.Warn("connections to the API are turned away", "from", from, "why", why)
			}
			c.Close()
			continue
		}
		gated := &gatedConn{Conn: c, gate: g, from: from}
		if g.tls == nil {
			return gated, nil
		}
		return tls.Server(gated, g.tls), nil
	}
}

// enter counts a connection, or says why not.
func (g *gate) enter(from netip.Addr) (why string) {
	if g.failed.Exhausted(from) {
		return "too many of its TLS handshakes failed"
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.per[from] >= maxConnsPerAddress:
		return "it has too many connections"
	case g.total >= g.max:
		return "there are too many connections"
	}
	g.total++
	g.per[from]++
	return ""
}

func (g *gate) leave(from netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.per[from]--; g.per[from] == 0 {
		delete(g.per, from)
	}
}

// gatedConn is a connection that the gate counts.
type gatedConn struct {
	net.Conn
	gate    *gate
	from    netip.Addr
	greeted atomic.Bool // the handshake succeeded
	once    sync.Once
}

// Close ends the connection and what it counts for.
func (c *gatedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.gate.leave(c.from)
		if c.gate.tls != nil && !c.greeted.Load() {
			c.gate.failed.Allow(c.from)
		}
	})
	return err
}
