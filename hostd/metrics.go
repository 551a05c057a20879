// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"kohaku/conf"
	"kohaku/internal/dataplane"
	"kohaku/internal/metrics"
)

// watchOver serves what can be watched of the Host, in goroutines of running.
func (h *Host) watchOver(ctx context.Context, running *sync.WaitGroup) {
	h.opts.Metrics.Collect(h.snapshot)
	h.opts.Supervisor.Status(h.statusLine())
	running.Go(func() { h.opts.Supervisor.Run(ctx, h.opts.Live) })
	running.Go(func() {
		h.opts.Metrics.Serve(ctx, h.cfg.Host.Metrics, metrics.Health(h.unhealthy), h.log,
			func(err error) { h.problems.Set("metrics", err) })
	})
}

// snapshot is the Host's state for a scrape.
func (h *Host) snapshot() metrics.Snapshot {
	s := metrics.Snapshot{Host: &metrics.Host{MaxRunners: h.plan.MaxRunners()}, Problems: len(h.problems.List())}
	names := make(map[string]string)
	h.mu.Lock()
	now := h.opts.Now()
	for _, al := range h.table.all() {
		m := metrics.Member{Name: al.Name, Active: h.table.active(al, now), Age: -1}
		if !al.Heard.IsZero() {
			m.Age = now.Sub(al.Heard)
		}
		s.Host.Members = append(s.Host.Members, m)
		names[h.runners[al.ID].device] = al.Name
	}
	s.Host.AvailableIDs = h.table.available()
	h.mu.Unlock()
	s.OfPlane(h.plane, func(t dataplane.Stats) string { return names[t.Device] })
	s.OfFirewall(h.opts.Firewall)
	return s
}

// unhealthy says why the Host does not do its work; nothing when it does. What
// concerns one Runner, or the firewall, is a problem that kohaku status shows: a new
// start would not cure it.
func (h *Host) unhealthy() []string {
	why := h.opts.Live.Late()
	if h.cfg.Overlay.Enabled && h.plane == nil {
		why = append(why, "the data plane is not built")
	}
	if p := h.problems.Get("host device"); p != "" {
		why = append(why, p)
	}
	if p := h.problems.Get("devices"); p != "" {
		why = append(why, p)
	}
	return why
}

// statusLine is what systemctl status shows.
func (h *Host) statusLine() string {
	if !h.cfg.Overlay.Enabled {
		return "the overlay is disabled"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	active, now := 0, h.opts.Now()
	for _, al := range h.table.byID {
		if h.table.active(al, now) {
			active++
		}
	}
	return fmt.Sprintf("%d of %d runners active, problems: %d", active, len(h.table.byID), len(h.problems.List()))
}

// interval is that of heartbeats, in force now.
func (h *Host) interval() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.beat.Interval
}

// apply puts new settings of the heartbeat in force and returns its interval.
// Runners learn it from the answer to their next heartbeat.
func (h *Host) apply(c *conf.Host) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.beat = c.Heartbeat
	h.table.timeout = h.beat.Interval * time.Duration(h.beat.TimeoutFactor)
	return h.beat.Interval
}

// countedLinks counts what is changed: what is this daemon's own here, the rest by
// CountedLinks, whose methods come before those of what lies a level deeper.
type countedLinks struct {
	rest
	metrics.CountedLinks
}

type rest struct{ Links }

func countLinks(l Links, set *metrics.Set) countedLinks {
	return countedLinks{rest{l}, metrics.CountedLinks{Links: l, Set: set}}
}

func (l countedLinks) EnsureHostAddressDevice(name string, mac net.HardwareAddr) (bool, error) {
	return l.Set.Changed("bridge")(l.rest.Links.EnsureHostAddressDevice(name, mac))
}
