// SPDX-License-Identifier: Apache-2.0

// Package hostd is the Host's daemon. It gives runners their ids and subnets over
// an HTTP API, keeps one tunnel device per runner with its addresses, routes
// between them, and builds its table anew from the devices' aliases when it starts.
package hostd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/internal/api"
	"kohaku/internal/dataplane"
	"kohaku/internal/firewall"
	"kohaku/internal/link"
	"kohaku/internal/machine"
	"kohaku/internal/metrics"
	"kohaku/internal/problem"
	"kohaku/internal/reserve"
	"kohaku/internal/service"
	"kohaku/internal/takeover"
	"kohaku/internal/trust"
)

// Links is what the Host needs of this machine's network; link.Kernel has it.
type Links interface {
	Devices() ([]link.Info, error)
	Device(name string) (link.Info, error)
	EnsureHostAddressDevice(name string, mac net.HardwareAddr) (bool, error)
	EnsureMTU(device string, mtu int) (bool, error)
	EnsureAlias(device string, alias link.Alias) (bool, error)
	EnsureAddrs(device string, want []netip.Prefix, stale func(netip.Prefix) bool) (bool, error)
	EnsureNoQueue(device string) (bool, error)
	EnsureUp(device string) (bool, error)
	EnsureSysctl(path, value string) (bool, error)
	Delete(device string) error
	PathTo(netip.Addr) (link.Path, error)
	DefaultMTU() (int, bool)
	Uses(skip func(device string) bool) ([]link.Use, error)
}

// Firewall is what the Host needs of this machine's firewall.
type Firewall interface {
	Ensure(firewall.Rules) (changes []string, err error)
	Watch(ctx context.Context)
	Report() api.Firewall
}

// Options are the Host's surroundings. Zero fields mean the real ones.
type Options struct {
	Log *slog.Logger
	// Ready is called once, when the API answers.
	Ready func(api netip.AddrPort)

	Links    Links
	Firewall Firewall
	Machine  dataplane.Machine
	// Takeover has the kernel's VXLAN devices; nil beside Links that are not: there
	// are none.
	Takeover takeover.System
	// Meter measures when a person asks the API for it; nil: that is refused.
	Meter dataplane.Meter
	Now   func() time.Time // with a monotonic reading, as time.Now gives it
	// BootClock is what reservations of addresses go by.
	BootClock reserve.Clock
	// TrustClock is what tokens and credentials age by; zero: the machine's.
	TrustClock trust.Clock
	// Announce tells a person, once, on the Host's first start, the command that
	// joins a runner and until when it does.
	Announce func(command string, until time.Time)
	// MachineID identifies this machine; empty: package machine finds it.
	MachineID string

	// Metrics are what Prometheus gets to read; nil: nothing.
	Metrics *metrics.Set
	// Supervisor is who started the daemon; nil: nobody who wants to know of it.
	Supervisor *service.Supervisor
	// Live is told that the loops turn.
	Live *service.Live
	// Settings has new ones, of which the heartbeat's are applied; nil: never.
	Settings <-chan *conf.Host
}

func (o Options) withDefaults(cfg *conf.Host) (Options, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Ready == nil {
		o.Ready = func(netip.AddrPort) {}
	}
	if o.Announce == nil {
		o.Announce = func(string, time.Time) {}
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
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Live == nil {
		o.Live = new(service.Live)
	}
	if o.Metrics != nil {
		o.Links = countLinks(o.Links, o.Metrics)
	}
	if o.MachineID == "" {
		var err error
		if o.MachineID, err = machine.ID(cfg.Host.StateDir); err != nil {
			return o, err
		}
	}
	return o, nil
}

// runner is an allocation with what the Host built for it. Guarded by Host.mu.
type runner struct {
	*allocation
	device string
	remote netip.Addr       // the runner's underlay address; zero: not known
	local  netip.Addr       // the Host's end on the underlay; zero: routing decides
	mtu    int              // overlay, bytes
	mac    net.HardwareAddr // of a new device; nil: link.StableMAC's

	tunnel    bool // the data plane has it
	lastUsed  time.Time
	wasActive bool // as last logged
	report    report
}

// Host is the daemon's state.
type Host struct {
	// Constant after start.
	cfg      *conf.Host
	plan     conf.Plan
	opts     Options
	log      *slog.Logger
	links    Links
	plane    dataplane.Plane // nil while the overlay is disabled
	problems *problem.Set
	start    time.Time
	perf     *perfDesk
	// tunnelsChanged has room for one: the firewall is to follow the tunnels.
	tunnelsChanged chan struct{}
	trust          *trust.Authority // nil: join = "open"
	apiPort        uint16           // as Runners reach it
	// Reservations of addresses; nil: they could not be read. It has a lock of its
	// own, which may be taken with mu held, never the other way round.
	reservations *reserve.Store

	mu      sync.Mutex
	beat    conf.Heartbeat // in force; may change while the daemon runs
	table   *allocator
	runners map[int]*runner
	// joinFailed is when a new runner's tunnel could not be made.
	joinFailed time.Time
}

func newHost(cfg *conf.Host, o Options) *Host {
	timeout := cfg.Heartbeat.Interval * time.Duration(cfg.Heartbeat.TimeoutFactor)
	return &Host{
		tunnelsChanged: make(chan struct{}, 1),
		cfg:            cfg, plan: cfg.Overlay.Subnet, opts: o, log: o.Log, links: o.Links,
		problems: problem.NewSet(o.Log), start: o.Now(), perf: newPerfDesk(),
		beat:    cfg.Heartbeat,
		table:   newAllocator(cfg.Overlay.Subnet.MaxRunners(), timeout),
		runners: make(map[int]*runner),
	}
}

func (h *Host) vni(id int) encap.VNI { return encap.VNI(h.cfg.Overlay.VXLANID + uint32(id)) }

// shutdownGrace is how long a call or a reconciliation under way may take when the
// daemon ends, which as a whole must take less than a second.
const shutdownGrace = 400 * time.Millisecond

// Run is the Host from start to end. It returns nil after ctx is cancelled, and an
// error when it could not start. Devices stay behind, so that the next start takes
// them over with all that stands in their aliases.
func Run(ctx context.Context, cfg *conf.Host, opts Options) error {
	opts, err := opts.withDefaults(cfg)
	if err != nil {
		return err
	}
	// The port comes first: it tells a second Host on this machine apart before
	// that touches the devices of the first.
	listener, err := listen(ctx, cfg.Host.Bind)
	if err != nil {
		return err
	}
	defer listener.Close()
	h := newHost(cfg, opts)
	bound := listener.Addr().(*net.TCPAddr).AddrPort()
	h.apiPort = bound.Port()
	front, err := h.openFront(ctx, listener)
	if err != nil {
		return err
	}
	defer front.close()
	if cfg.Overlay.Enabled {
		if err := h.prepare(); err != nil {
			return err
		}
		// Last of all: as long as the API or the reconciler runs, it may use the
		// data plane.
		defer h.plane.Close()
	} else {
		h.log.Warn("the overlay is disabled: no VXLAN tunnel is made (set enabled = true in the [overlay] section of host.toml)")
	}

	loops, stop := context.WithCancel(ctx)
	defer stop()
	server := h.server()
	var running sync.WaitGroup
	failed := make(chan error, 2)
	for _, l := range []net.Listener{front.api, front.admin} {
		running.Go(func() {
			if err := serve(server, l); err != nil {
				failed <- err
			}
		})
	}
	if h.trust != nil {
		running.Go(func() { h.trust.Run(loops) })
	}
	if cfg.Overlay.Enabled {
		running.Go(func() { h.reconcileLoop(loops) })
		running.Go(func() { h.failureLoop(loops) })
		running.Go(func() { h.firewallLoop(loops) })
	}
	h.watchOver(loops, &running)
	h.log.Info("the Host is ready", "api", bound, "overlay", h.plan, "vxlan_port", cfg.Overlay.VXLANPort)
	opts.Ready(bound)
	h.invite()

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	h.log.Info("the Host ends; VXLAN devices stay for the next start")
	h.flushReservations()
	stop()
	h.perf.close()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		server.Close()
	}
	ended := make(chan struct{})
	go func() { running.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-grace.Done():
		h.log.Warn("a change to this machine was still under way when the Host ended")
	}
	return err
}

// portPatience is how long a taken port is tried again. A Host that was killed while it
// started another program (iptables, say) lives on in that one's process, its sockets
// too, until the program is loaded.
const portPatience = 2 * time.Second

func listen(ctx context.Context, bind netip.AddrPort) (net.Listener, error) {
	var l net.Listener
	var err error
	for until := time.Now().Add(portPatience); ; time.Sleep(50 * time.Millisecond) {
		l, err = new(net.ListenConfig).Listen(ctx, "tcp", bind.String())
		if !errors.Is(err, syscall.EADDRINUSE) || ctx.Err() != nil || time.Now().After(until) {
			break
		}
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen for the API on %s: the port is taken, perhaps by another Host "+
			"(ss -tlnp 'sport = :%d' shows by whom; or set bind in the [host] section): %w", bind, bind.Port(), err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listen for the API on %s: this machine does not have that address "+
			"(correct bind in the [host] section): %w", bind, err)
	case err != nil:
		return nil, fmt.Errorf("listen for the API on %s: %w", bind, err)
	}
	return l, nil
}

// prepare checks that the overlay can be made here and brings it up as far as it
// was before.
func (h *Host) prepare() error {
	uses, err := h.links.Uses(link.OurName)
	if err != nil {
		return err
	}
	if err := link.CheckOverlap(h.plan, uses); err != nil {
		return err
	}
	if err := h.checkReachable(); err != nil {
		return err
	}
	old, err := h.takeOver()
	if err != nil {
		return err
	}
	if err := h.bringUp(old); err != nil {
		return old.Undo(err)
	}
	return nil
}

// bringUp is the part of prepare that changes the machine. What was taken over from
// the kernel comes first: its traffic waits.
func (h *Host) bringUp(old takeover.Handover) (err error) {
	if h.plane, err = h.opts.Machine.NewPlane(h.cfg.Overlay.VXLANPort); err != nil {
		return fmt.Errorf("start VXLAN on UDP port %d: %w", h.cfg.Overlay.VXLANPort, err)
	}
	defer func() {
		if err != nil {
			h.plane.Close()
		}
	}()
	if err := h.adopt(old); err != nil {
		return err
	}
	if err := h.ensureHostDevice(); err != nil {
		return err
	}
	h.ensureMachine()
	h.openReservations()
	return h.recover()
}
