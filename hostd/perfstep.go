// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"kohaku/conf"
	"kohaku/engine"
	"kohaku/internal/api"
)

// Patience with the ends of a measurement, beside its own duration.
const (
	perfStart   = 5 * time.Second  // until a server listens
	perfConnect = 25 * time.Second // until a client has connected and told its results
	perfServed  = 5 * time.Second  // until the server has told them after the client
)

// perfEnd is one machine of a step.
type perfEnd struct {
	runner string // empty: the Host
	addr   netip.Addr
	watch  api.PerfTask // its Peers and Tunnels
}

// measure runs one test between two machines of the overlay.
func (h *Host) measure(ctx context.Context, q api.PerfStep) (api.PerfStepAnswer, error) {
	from, to, host, err := h.perfEnds(q)
	if err != nil {
		return api.PerfStepAnswer{}, err
	}
	failed := func(err error) (api.PerfStepAnswer, error) {
		return api.PerfStepAnswer{}, &refusal{http.StatusBadGateway,
			fmt.Sprintf("the test from %s to %s over the %s failed: %v", perfName(q.From), perfName(q.To), q.Network, err),
			fmt.Sprintf("a test needs TCP port %d or, where that is taken, another one open between these machines", api.PerfPort)}
	}
	took := time.Duration(q.Seconds * float64(time.Second))

	serve := to.watch
	serve.Kind, serve.Mode, serve.Seconds = api.PerfServe, q.Mode, q.Seconds
	serve.Listen, serve.Allow = to.addr, from.addr
	server := h.beginPerf(ctx, to.runner, serve)
	defer func() { server.end() }()
	ready, err := server.await(ctx, api.PerfReady, perfStart)
	if err != nil {
		return failed(err)
	}

	a := api.PerfStepAnswer{Client: from.addr, Server: netip.AddrPortFrom(to.addr, ready.Port)}
	run := from.watch
	run.Kind, run.Mode, run.Seconds = api.PerfMeasure, q.Mode, q.Seconds
	run.Local, run.Server, run.Streams, run.Reverse = from.addr, a.Server, q.Streams, q.Reverse
	var between func() api.PerfSeen
	if from.runner != "" && to.runner != "" {
		between = h.opts.Meter.Watch(host.watch, h.engineStats)
		defer func() {
			if between != nil {
				between()
			}
		}()
	}
	client := h.beginPerf(ctx, from.runner, run)
	defer func() { client.end() }()
	measured, err := client.await(ctx, api.PerfDone, took+perfConnect)
	if err != nil {
		return failed(err)
	}
	if between != nil {
		seen := between()
		between = nil
		a.Seen = append(a.Seen, seen)
	}
	served, err := server.await(ctx, api.PerfDone, perfServed)
	if err != nil {
		return failed(err)
	}
	if measured.Figures == nil {
		return failed(fmt.Errorf("%s tells no figures", perfName(from.runner)))
	}
	a.Figures = *measured.Figures
	for _, end := range []struct {
		runner string
		seen   *api.PerfSeen
	}{{from.runner, measured.Seen}, {to.runner, served.Seen}} {
		if end.seen != nil {
			end.seen.Runner = end.runner
			a.Seen = append(a.Seen, *end.seen)
		}
	}
	return a, nil
}

// beginPerf has an end begin a task.
func (h *Host) beginPerf(ctx context.Context, runner string, t api.PerfTask) *perfCall {
	if runner != "" {
		return h.perf.ask(runner, t)
	}
	d := h.perf
	d.mu.Lock()
	c := d.enter("")
	d.mu.Unlock()
	t.ID = c.id
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.opts.Meter.Do(ctx, t, h.engineStats, func(r api.PerfReport) { d.take("", r) })
	}()
	c.end = func() {
		cancel()
		<-ended
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.calls, c.id)
	}
	return c
}

func (h *Host) engineStats() engine.Stats { return h.plane.Stats() }

// perfEnds finds the machines of a step and their addresses on its network. The
// Host is described even where it only stands between.
func (h *Host) perfEnds(q api.PerfStep) (from, to, host perfEnd, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var runners []*runner
	for _, name := range []string{q.From, q.To} {
		if name == "" {
			continue
		}
		r, err := h.perfRunner(name)
		if err != nil {
			return from, to, host, err
		}
		runners = append(runners, r)
		host.watch.Peers = append(host.watch.Peers, r.remote)
		host.watch.Tunnels = append(host.watch.Tunnels, r.device)
	}
	end := func(name string) perfEnd {
		if name == "" {
			e := host
			e.addr = runners[0].local
			if q.Network == api.PerfOverlay {
				e.addr = h.plan.HostAddr()
			}
			return e
		}
		e := perfEnd{runner: name}
		for _, r := range runners {
			if r.Name == name {
				e.addr = r.remote
				if q.Network == api.PerfOverlay {
					e.addr = h.plan.Gateway(r.ID)
				}
				e.watch.Peers = append([]netip.Addr{r.local}, e.watch.Peers...)
			} else if q.Network == api.PerfUnderlay {
				e.watch.Peers = append(e.watch.Peers, r.remote)
			}
		}
		e.watch.Tunnels = []string{conf.RunnerTunnelDevice}
		return e
	}
	return end(q.From), end(q.To), host, nil
}

// perfRunner finds a runner that can take part. Guarded by mu.
func (h *Host) perfRunner(name string) (*runner, error) {
	al := h.table.byName[name]
	if al == nil {
		return nil, &refusal{http.StatusNotFound, fmt.Sprintf("the Host has no runner %q", name), "`kohaku node overlay` lists them"}
	}
	r := h.runners[al.ID]
	if !h.table.active(al, h.opts.Now()) || !r.tunnel || !r.remote.IsValid() || !r.local.IsValid() {
		return nil, &refusal{http.StatusConflict, fmt.Sprintf("runner %q is not active", name), "`kohaku status` says why"}
	}
	return r, nil
}
