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
	alive := r.opts.Live.Loop("the talk with the Host")
	defer alive.End()
	for {
		alive.Tick(maxRetry)
		path, err := r.self(ctx)
		again := false
		if err == nil {
			again, err = r.stay(ctx, path)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !r.isBuilt() && hopeless(err) {
			return err
		}
		if again {
			retry = r.opts.Retry
			continue
		}
		r.problems.Set("host", err)
		if r.pauseOrMoved(ctx, retry, path.Local) {
			retry = r.opts.Retry
		} else {
			retry = min(2*retry, maxRetry)
		}
	}
}

// stay is one registration with the time to the next: until the Host asks for it,
// or this machine's path to the Host becomes another than self. again says that it
// is time for that; else the registration failed with err.
func (r *Runner) stay(ctx context.Context, self link.Path) (again bool, err error) {
	ctx, end := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer end()
	group.Go(func() { r.followPath(ctx, self.Local, end) })
	interval, name, err := r.join(ctx, self)
	switch {
	case err == nil:
		r.problems.Clear("host")
		group.Go(func() { r.answerPerf(ctx, name) })
		r.beat(ctx, interval, name)
	case ctx.Err() == nil:
		return false, err
	}
	return true, nil
}

// join registers once, as reached by self, and builds what the Host answers. name
// is the one to send heartbeats under.
func (r *Runner) join(ctx context.Context, self link.Path) (interval time.Duration, name string, err error) {
	start := time.Now()
	answer, err := r.opts.Host.Register(ctx, api.RegisterRequest{
		Hostname: r.name, MachineID: r.opts.MachineID, Address: self.Local, UnderlayMTU: self.MTU,
		PreviousID: r.current().id, Settings: r.settings(), Version: r.opts.Version,
	})
	r.contact.note(r.opts.Metrics, "register", start, err)
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
		if err == nil && (path.Own || path.Local.IsLoopback()) {
			err = fmt.Errorf("host = %q in the [runner] section is this machine itself (%s), to which no tunnel can lead: "+
				"a Runner needs a machine (or a network namespace) of its own; write the Host's address on the underlay", r.cfg.Runner.Host, host)
		}
		if err == nil {
			path.Local = path.Local.Unmap()
			if a := r.cfg.Runner.Address; a.IsValid() {
				r.problems.Set("address", r.checkOwn(a))
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

// checkOwn says so when the address that the settings give is not this machine's:
// no frame could leave from it.
func (r *Runner) checkOwn(a netip.Addr) error {
	if path, err := r.links.PathTo(a); err == nil && !path.Own {
		return fmt.Errorf("address = %q in the [runner] section is not an address of this machine: no traffic of the overlay can leave from it "+
			"(correct it, or remove it so that it is found)", a)
	}
	return nil
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
	alive := r.opts.Live.Loop("the talk with the Host")
	alive.Tick(interval)
	for pause(ctx, interval) {
		alive.Tick(interval)
		s := r.current()
		self, err := r.self(ctx)
		if !r.problems.Set("underlay", err) {
			continue
		}
		if self.Local != s.local {
			r.sayMoved(s.local, self.Local)
			return
		}
		start := time.Now()
		answer, err := r.opts.Host.Heartbeat(ctx, name, api.Heartbeat{
			MachineID: r.opts.MachineID, RunnerID: s.id, Address: s.local, UnderlayMTU: self.MTU,
			Counters: r.counters(), Problems: api.FitProblems(r.problems.List()), Firewall: api.FitFirewall(r.opts.Firewall.Report()), UsedAddresses: r.used(s),
		})
		if ctx.Err() != nil {
			return
		}
		r.contact.note(r.opts.Metrics, "heartbeat", start, err)
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
