// SPDX-License-Identifier: Apache-2.0

package end

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"syscall"
	"time"

	"kohaku/engine"
	"kohaku/internal/api"
	"kohaku/perf"
)

const (
	// patience is what a server adds to a test's duration before it gives up on
	// its client.
	patience = 20 * time.Second
	// omitShare is the share of the measured time that TCP gets before it, to find
	// its rate.
	omitShare = 0.2
)

// Do is dataplane.Meter's.
func (m Meter) Do(ctx context.Context, t api.PerfTask, stats func() engine.Stats, report func(api.PerfReport)) {
	r := api.PerfReport{TaskID: t.ID, State: api.PerfDone}
	err := t.Check()
	if err == nil {
		switch t.Kind {
		case api.PerfServe:
			r.Seen, err = m.serve(ctx, t, stats, func(port uint16) {
				report(api.PerfReport{TaskID: t.ID, State: api.PerfReady, Port: port})
			})
		case api.PerfMeasure:
			r.Figures, r.Seen, err = m.measure(ctx, t, stats)
		default:
			err = fmt.Errorf("%s is nothing to do", t.Kind)
		}
	}
	if err != nil {
		r.Error = api.FitText(err.Error())
	}
	report(r)
}

// serve answers one test of the one client that it is for.
func (m Meter) serve(ctx context.Context, t api.PerfTask, stats func() engine.Stats, ready func(port uint16)) (*api.PerfSeen, error) {
	took := length(t)
	ctx, cancel := context.WithTimeout(ctx, took+patience)
	defer cancel()
	ln, err := listen(t.Listen)
	if err != nil {
		return nil, err
	}
	var stop func() api.PerfSeen
	var seen *api.PerfSeen
	finish := func() {
		if stop != nil {
			s := stop()
			seen, stop = &s, nil
		}
	}
	err = perf.Serve(ctx, perf.ServerConfig{
		Listener: ln, Allow: []netip.Prefix{netip.PrefixFrom(t.Allow, t.Allow.BitLen())},
		MaxDuration: took + 2*time.Second, OneOff: true, IdleTimeout: patience,
		OnListen: func(at netip.AddrPort) { ready(at.Port()) },
		OnStart:  func(*perf.Result) { stop = m.Watch(t, stats) },
		OnResult: func(*perf.Result) { finish() },
	})
	finish()
	switch {
	case err != nil:
		return seen, fmt.Errorf("as the server: %w", err)
	case seen == nil && ctx.Err() != nil:
		return nil, fmt.Errorf("as the server: %s did not come", t.Allow)
	}
	return seen, nil
}

// listen opens the usual port or, where somebody uses that, any other.
func listen(a netip.Addr) (*net.TCPListener, error) {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, api.PerfPort)))
	if errors.Is(err, syscall.EADDRINUSE) {
		ln, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	}
	if err != nil {
		return nil, fmt.Errorf("listen for the test: %w", err)
	}
	return ln, nil
}

// measure runs one test as the client.
func (m Meter) measure(ctx context.Context, t api.PerfTask, stats func() engine.Stats) (*api.PerfFigures, *api.PerfSeen, error) {
	var stop func() api.PerfSeen
	cfg := perf.ClientConfig{
		Server: t.Server.String(), Local: t.Local, Streams: t.Streams, Reverse: t.Reverse,
		Duration: seconds(t.Seconds), NoDelay: t.Mode == api.PerfRoundTrip,
		OnStart: func(*perf.Result) { stop = m.Watch(t, stats) },
	}
	if t.Mode == api.PerfRoundTrip {
		cfg.Mode = perf.RoundTrip
	} else {
		cfg.Omit = seconds(t.Seconds * omitShare).Truncate(time.Millisecond)
	}
	r, err := perf.RunClient(ctx, cfg)
	var seen *api.PerfSeen
	if stop != nil {
		s := stop()
		seen = &s
	}
	if err != nil {
		return nil, seen, fmt.Errorf("as the client: %w", err)
	}
	return figures(r), seen, nil
}

func figures(r *perf.Result) *api.PerfFigures {
	if l := r.Latency; l != nil {
		us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
		return &api.PerfFigures{
			Seconds: l.Seconds, MSS: r.MSS, PerSecond: l.PerSecond(),
			P50: us(l.P50), P90: us(l.P90), P99: us(l.P99), P999: us(l.P999),
		}
	}
	sent, received := r.Sum(r.Sends())
	return &api.PerfFigures{Seconds: received.Seconds, Bits: received.BitsPerSecond(), Retransmits: max(sent.Retransmits, -1), MSS: r.MSS}
}

// length is how long a test takes as a whole, in the whole seconds that its
// client speaks of.
func length(t api.PerfTask) time.Duration {
	return seconds(math.Ceil(t.Seconds) + math.Ceil(t.Seconds*omitShare))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
