// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/link"
)

// stayJoined registers with the Host and sends heartbeats, until ctx ends. An error
// is one that waiting will not cure.
func (r *Runner) stayJoined(ctx context.Context) error {
	retry := r.opts.Retry
	for {
		interval, name, err := r.join(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !r.isBuilt() && hopeless(err) {
			return err
		}
		if r.problems.Set("host", err) {
			retry = r.opts.Retry
			r.stayWith(ctx, interval, name)
			continue
		}
		if !pause(ctx, retry) {
			return nil
		}
		retry = min(2*retry, maxRetry)
	}
}

// stayWith is the time from one registration to the next.
func (r *Runner) stayWith(ctx context.Context, interval time.Duration, name string) {
	perf, end := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { r.answerPerf(perf, name) })
	r.beat(ctx, interval, name)
	end()
	group.Wait()
}

// join registers once and builds what the Host answers. name is the one to send
// heartbeats under.
func (r *Runner) join(ctx context.Context) (interval time.Duration, name string, err error) {
	self, err := r.self(ctx)
	if err != nil {
		return 0, "", err
	}
	answer, err := r.opts.Host.Register(ctx, api.RegisterRequest{
		Hostname: r.name, MachineID: r.opts.MachineID, Address: self.Local, UnderlayMTU: self.MTU,
		PreviousID: r.current().id, Settings: r.settings(), Version: r.opts.Version,
	})
	if err != nil {
		return 0, "", err
	}
	s, err := shapeOf(answer, self.Local)
	if err != nil {
		return 0, "", err
	}
	r.mu.Lock()
	err = r.build(s)
	r.mu.Unlock()
	if err != nil {
		return 0, "", err
	}
	r.problems.Clear("overlay")
	r.ensureMachine(s)
	r.log.Info("joined the overlay", "host", r.cfg.Runner.Host, "name", answer.RunnerName, "id", s.id, "subnet", s.plan.Subnet(s.id),
		"vni", s.vni, "vxlan_remote", s.remote, "local", s.local, "mtu", s.mtu)
	r.ready()
	return answer.Interval(), answer.RunnerName, nil
}

// settings are those that stand in this machine's own file.
func (r *Runner) settings() api.Settings {
	o := r.cfg.Overlay
	s := api.Settings{VXLANID: o.VXLANID, VXLANPort: o.VXLANPort, MTU: o.MTU}
	if o.Subnet != nil {
		text := o.Subnet.String()
		s.Subnet = &text
	}
	return s
}

// self finds the underlay address of this machine that the Host reaches it by, and
// the MTU of the device there.
func (r *Runner) self(ctx context.Context) (link.Path, error) {
	hosts, err := r.hostAddrs(ctx)
	if err != nil {
		return link.Path{}, err
	}
	var firstErr error
	for _, host := range hosts {
		path, err := r.links.PathTo(host)
		if err == nil {
			path.Local = path.Local.Unmap()
			if a := r.cfg.Runner.Address; a.IsValid() {
				path.Local = a
			}
			return path, nil
		}
		if firstErr == nil {
			firstErr = err
		}
	}
	return link.Path{}, fmt.Errorf("find this machine's underlay address: %w (set `address` in the [runner] section, or check the underlay)", firstErr)
}

// hostAddrs resolves the Host's name; usually it is an address already.
func (r *Runner) hostAddrs(ctx context.Context) ([]netip.Addr, error) {
	host, _, err := net.SplitHostPort(r.cfg.Runner.Host)
	if err != nil {
		return nil, fmt.Errorf("host = %q in the [runner] section is not ADDRESS:PORT: %w", r.cfg.Runner.Host, err)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, api.CallTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("resolve the Host's name %q: %w (write its IP address as `host` in the [runner] section)", host, err)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// beat sends heartbeats until the Runner has to register again, or ctx ends. A Host
// that does not answer is no reason to: traffic goes on, and so do heartbeats.
func (r *Runner) beat(ctx context.Context, interval time.Duration, name string) {
	for pause(ctx, interval) {
		s := r.current()
		self, err := r.self(ctx)
		if !r.problems.Set("underlay", err) {
			continue
		}
		if self.Local != s.local {
			r.log.Warn("the underlay address of this machine has changed: registering again", "was", s.local, "is", self.Local)
			// Connections from the old address would only time out.
			r.opts.Host.Close()
			return
		}
		answer, err := r.opts.Host.Heartbeat(ctx, name, api.Heartbeat{
			MachineID: r.opts.MachineID, RunnerID: s.id, Address: s.local, UnderlayMTU: self.MTU,
			Counters: r.counters(), Problems: api.FitProblems(r.problems.List()),
		})
		if ctx.Err() != nil {
			return
		}
		if api.IsNotFound(err) {
			r.log.Warn("the Host asks this Runner to register again", "error", err)
			return
		}
		if !r.problems.Set("heartbeat", err) {
			continue
		}
		if answer.RunnerID != s.id || answer.MTU != s.mtu || answer.HostPhysicalIP.Unmap() != s.remote ||
			answer.HeartbeatInterval != interval.Seconds() {
			r.log.Info("the Host's settings have changed: registering again")
			return
		}
	}
}

// current is what is or is to be built.
func (r *Runner) current() shape {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shape
}

func (r *Runner) isBuilt() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.built
}

// pause waits and reports whether ctx is still good.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
