// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/dataplane"
	"kohaku/internal/metrics"
)

// contact is how the talk with the Host goes.
type contact struct {
	mu     sync.Mutex
	joined bool      // the last call was answered well
	last   time.Time // of the last answer; zero: none yet
	since  time.Time // not joined since then; zero: from the start
}

// note takes down a call that began at start.
func (c *contact) note(set *metrics.Set, call string, start time.Time, err error) {
	now, code := time.Now(), 200
	if err != nil {
		code = 0
		if refused, ok := errors.AsType[*api.CallError](err); ok {
			code = refused.StatusCode
		}
	}
	set.HostCall(call, code, now.Sub(start))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.joined && err != nil {
		c.since = now
	}
	c.joined = err == nil
	if err == nil {
		c.last = now
	}
}

func (c *contact) get() (joined bool, last, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.joined, c.last, c.since
}

// longApart is how long a Runner may be without the Host before it calls itself
// unhealthy. Traffic goes on all the same.
const longApart = time.Minute

// watchOver serves what can be watched of the Runner, in goroutines of running.
func (r *Runner) watchOver(ctx context.Context, running *sync.WaitGroup) {
	start := time.Now()
	r.contact.mu.Lock()
	r.contact.since = start
	r.contact.mu.Unlock()
	r.opts.Metrics.Collect(r.snapshot)
	r.opts.Supervisor.Status(r.statusLine())
	running.Go(func() { r.opts.Supervisor.Run(ctx, r.opts.Live) })
	running.Go(func() {
		r.opts.Metrics.Serve(ctx, r.cfg.Runner.Metrics, metrics.Health(r.unhealthy), r.log,
			func(err error) { r.problems.Set("metrics", err) })
	})
}

// snapshot is the Runner's state for a scrape.
func (r *Runner) snapshot() metrics.Snapshot {
	joined, last, _ := r.contact.get()
	s := metrics.Snapshot{Runner: &metrics.Runner{Joined: joined, Age: -1}, Problems: len(r.problems.List())}
	if !last.IsZero() {
		s.Runner.Age = time.Since(last)
	}
	s.OfFirewall(r.opts.Firewall)
	// Under the lock, since the data plane may be closed and made anew.
	r.mu.Lock()
	defer r.mu.Unlock()
	s.OfPlane(r.wire.plane, func(dataplane.Stats) string { return r.name })
	return s
}

// unhealthy says why the Runner does not do its work; nothing when it does.
func (r *Runner) unhealthy() []string {
	why := r.opts.Live.Late()
	if !r.cfg.Overlay.Enabled {
		return why
	}
	r.mu.Lock()
	built, tunnel := r.built, r.wire.plane != nil && r.wire.tunnel
	r.mu.Unlock()
	switch {
	case !built:
		why = append(why, "the data plane is not built: this Runner has not joined yet")
	case !tunnel:
		why = append(why, "the data plane has no tunnel")
	}
	joined, _, since := r.contact.get()
	if apart := time.Since(since); !joined && apart > longApart {
		text := fmt.Sprintf("the Host has not answered well for %v", apart.Round(time.Second))
		for _, key := range []string{"host", "heartbeat", "underlay"} {
			if p := r.problems.Get(key); p != "" {
				text += ": " + p
				break
			}
		}
		why = append(why, text)
	}
	return why
}

// statusLine is what systemctl status shows.
func (r *Runner) statusLine() string {
	joined, last, _ := r.contact.get()
	if !r.cfg.Overlay.Enabled {
		return "the overlay is disabled"
	}
	s := r.current()
	problems := len(r.problems.List())
	switch {
	case joined && s.id != 0: // answered, and built
		return fmt.Sprintf("joined as id %d, subnet %s, problems: %d", s.id, s.plan.Subnet(s.id), problems)
	case s.id != 0 && last.IsZero():
		return fmt.Sprintf("goes on as id %d from an earlier run; the Host %s has not answered yet", s.id, r.cfg.Runner.Host)
	case s.id != 0:
		return fmt.Sprintf("goes on as id %d; the Host %s does not answer well", s.id, r.cfg.Runner.Host)
	}
	return fmt.Sprintf("asks the Host %s to join, problems: %d", r.cfg.Runner.Host, problems)
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

func (l countedLinks) EnsureBridge(name string, mac net.HardwareAddr) (bool, error) {
	return l.Set.Changed("bridge")(l.rest.Links.EnsureBridge(name, mac))
}

func (l countedLinks) EnsureMaster(device, bridge string) (bool, error) {
	return l.Set.Changed("bridge_port")(l.rest.Links.EnsureMaster(device, bridge))
}

func (l countedLinks) EnsureRoute(device string, dst netip.Prefix, via netip.Addr) (bool, error) {
	return l.Set.Changed("route")(l.rest.Links.EnsureRoute(device, dst, via))
}
