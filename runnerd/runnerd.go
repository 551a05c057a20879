// SPDX-License-Identifier: Apache-2.0

// Package runnerd is the Runner's daemon. It joins the Host, keeps the tunnel to
// it, the bridge that containers are attached to, the route into the overlay and
// the masquerade out of it, and tells the Host that it is alive.
//
// Traffic does not need the Host's daemon: while that is away, everything stays as
// it is, and a Runner that starts meanwhile takes over what its devices tell.
package runnerd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/dataplane"
	"kohaku/internal/docker"
	"kohaku/internal/firewall"
	"kohaku/internal/link"
	"kohaku/internal/machine"
	"kohaku/internal/metrics"
	"kohaku/internal/problem"
	"kohaku/internal/service"
	"kohaku/internal/takeover"
	"kohaku/internal/trust"
)

// Links is what the Runner needs of this machine's network; link.Kernel has it.
type Links interface {
	Device(name string) (link.Info, error)
	Devices() ([]link.Info, error)
	EnsureBridge(name string, mac net.HardwareAddr) (bool, error)
	EnsureMaster(device, bridge string) (bool, error)
	EnsureMTU(device string, mtu int) (bool, error)
	EnsureAlias(device string, alias link.Alias) (bool, error)
	EnsureAddrs(device string, want []netip.Prefix, stale func(netip.Prefix) bool) (bool, error)
	EnsureNoQueue(device string) (bool, error)
	EnsureUp(device string) (bool, error)
	EnsureRoute(device string, dst netip.Prefix, via netip.Addr) (bool, error)
	EnsureSysctl(path, value string) (bool, error)
	Delete(device string) error
	PathTo(netip.Addr) (link.Path, error)
	Uses(skip func(device string) bool) ([]link.Use, error)
	// Watch tells that something of the network has changed; see link.Kernel.
	Watch(context.Context) (<-chan struct{}, error)
}

// Docker keeps the network for containers; docker.Keeper does.
type Docker interface {
	Run(context.Context)
	Want(docker.Network)
	Used() []netip.Addr
}

// Firewall is what the Runner needs of this machine's firewall.
type Firewall interface {
	Ensure(firewall.Rules) (changes []string, err error)
	Watch(ctx context.Context)
	Report() api.Firewall
}

// HostAPI is what the Runner calls on the Host; api.Client has it.
type HostAPI interface {
	Register(context.Context, api.RegisterRequest) (api.RegisterAnswer, error)
	Heartbeat(ctx context.Context, name string, h api.Heartbeat) (api.HeartbeatAnswer, error)
	// PerfTasks waits for measurements that the Host wants of this Runner.
	PerfTasks(ctx context.Context, name string, p api.PerfPoll) ([]api.PerfTask, error)
	PerfReport(ctx context.Context, name string, r api.PerfReport) error
	// Close drops idle connections; calls after it are allowed.
	Close()
}

// Options are the Runner's surroundings. Zero fields mean the real ones.
type Options struct {
	Log *slog.Logger
	// Ready is called once, when the overlay is up: joined, or taken over from an
	// earlier run while the Host does not answer.
	Ready func()
	// Version is told to the Host.
	Version string

	Links    Links
	Firewall Firewall
	Machine  dataplane.Machine
	// Takeover has the kernel's VXLAN devices; nil beside Links that are not: there
	// are none.
	Takeover takeover.System
	Host     HostAPI
	// Docker is left alone when [docker] is not enabled, whatever stands here.
	Docker Docker
	// ListenFacts opens the listener where containers ask for facts.
	ListenFacts func(context.Context, netip.AddrPort) (net.Listener, error)
	// Meter measures when the Host asks; nil: the Host is not asked whether it
	// wants anything measured.
	Meter dataplane.Meter
	// MachineID identifies this machine; empty: package machine finds it.
	MachineID string
	// Retry is the first pause after a failed registration; it doubles up to
	// maxRetry. 0: half a second.
	Retry time.Duration

	// Metrics are what Prometheus gets to read; nil: nothing.
	Metrics *metrics.Set
	// Supervisor is who started the daemon; nil: nobody who wants to know of it.
	Supervisor *service.Supervisor
	// Live is told that the loops turn.
	Live *service.Live
}

const (
	firstRetry = 500 * time.Millisecond
	maxRetry   = 5 * time.Second
)

func (o Options) withDefaults(cfg *conf.Runner) (Options, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Ready == nil {
		o.Ready = func() {}
	}
	if o.Links == nil {
		o.Links = link.Kernel{}
		if o.Takeover == nil {
			o.Takeover = takeover.Kernel{}
		}
	}
	if o.Firewall == nil {
		o.Firewall = firewall.New(o.Log)
	}
	if o.Machine == nil {
		o.Machine = dataplane.System{Engine: cfg.Engine, Log: o.Log, Keep: o.Supervisor}
	}
	if o.ListenFacts == nil {
		o.ListenFacts = listenFacts
	}
	if o.Retry == 0 {
		o.Retry = firstRetry
	}
	if o.Live == nil {
		o.Live = new(service.Live)
	}
	if o.Metrics != nil {
		o.Links = countLinks(o.Links, o.Metrics)
	}
	var err error
	if o.Host == nil {
		if o.Host, err = api.NewClient(cfg.Runner.Host, api.WithCredential(trust.NewKeeper(cfg.Runner.StateDir, o.Log))); err != nil {
			return o, err
		}
	}
	if o.MachineID == "" {
		o.MachineID, err = machine.ID(cfg.Runner.StateDir)
	}
	return o, err
}

// Runner is the daemon's state.
type Runner struct {
	// Constant after start.
	cfg      *conf.Runner
	opts     Options
	log      *slog.Logger
	links    Links
	name     string // own, canonical
	problems *problem.Set
	failures chan dataplane.Failure
	ready    func()
	contact  contact

	docker Docker // nil: not enabled
	facts  *factServer

	// Each has a token when something of this machine's network has changed: one
	// for those who keep it, one for those who talk to the Host.
	changedHere  chan struct{}
	changedRoute chan struct{}

	mu    sync.Mutex
	built bool  // shape was built at least once
	shape shape // what is or is to be built; the zero shape: nothing
	wire  wire
	ports []link.Info // of the bridge, as last seen
	fresh bool        // a device was made since ensureMachine ran
}

// Run is the Runner from start to end. It returns nil after ctx is cancelled, and
// an error when it cannot do its work on this machine. A Host that does not answer
// or refuses is no such error: it is asked again and again. Devices stay behind, so
// that the next start takes them over.
func Run(ctx context.Context, cfg *conf.Runner, opts Options) error {
	name, err := machine.Hostname(cfg.Runner.Name)
	if err != nil {
		return err
	}
	if opts, err = opts.withDefaults(cfg); err != nil {
		return err
	}
	defer opts.Host.Close()
	r := newRunner(cfg, name, opts)
	if err := r.openDocker(); err != nil {
		return err
	}
	if !cfg.Overlay.Enabled {
		r.log.Warn("the overlay is disabled: no VXLAN tunnel is made (set enabled = true in the [overlay] section of runner.toml)")
		var running sync.WaitGroup
		r.watchOver(ctx, &running)
		r.ready()
		running.Wait()
		<-ctx.Done()
		return nil
	}
	if err := r.takeOver(); err != nil {
		r.closeWire()
		return err
	}

	loops, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	failed := make(chan error, 1)
	running.Go(func() {
		if err := r.stayJoined(loops); err != nil {
			failed <- err
		}
	})
	running.Go(func() { r.keep(loops) })
	r.watchOver(loops, &running)
	running.Go(func() { r.opts.Firewall.Watch(loops) })
	running.Go(func() { r.watch(loops) })
	running.Go(func() { r.facts.run(loops) })
	if r.docker != nil {
		running.Go(func() { r.docker.Run(loops) })
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	r.log.Info("the Runner ends; VXLAN devices stay for the next start")
	stop()
	ended := make(chan struct{})
	go func() { running.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(shutdownGrace):
		r.log.Warn("a change to this machine was still under way when the Runner ended")
	}
	// Last, so that nothing that still ran could have used it.
	r.closeWire()
	return err
}

func newRunner(cfg *conf.Runner, name string, o Options) *Runner {
	r := &Runner{
		cfg: cfg, opts: o, log: o.Log, links: o.Links, name: name,
		problems: problem.NewSet(o.Log), failures: make(chan dataplane.Failure), ready: sync.OnceFunc(o.Ready),
		changedHere: make(chan struct{}, 1), changedRoute: make(chan struct{}, 1),
	}
	r.facts = newFactServer(o, r.problems)
	return r
}

// shutdownGrace is how long a change under way may take when the daemon ends, which
// as a whole must take less than a second.
const shutdownGrace = 400 * time.Millisecond

// hopeless reports whether an error of the first build will not go away by itself.
func hopeless(err error) bool {
	var overlap *link.OverlapError
	var foreign *link.ForeignError
	var blocked *takeover.BlockedError
	var undone *takeover.UndoneError
	return errors.As(err, &overlap) || errors.As(err, &foreign) || errors.As(err, &blocked) || errors.As(err, &undone) ||
		errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EADDRINUSE)
}

var _ Links = link.Kernel{}
