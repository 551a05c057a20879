// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/link"
	"kohaku/tun"
)

func (a *app) tunnelCommand() *cobra.Command {
	f := &tunnelFlags{}
	c := &cobra.Command{
		Use:   "tunnel --dev DEVICE --vni VNI --remote ADDRESS",
		Short: "One device, one peer: the engine without daemons",
		Long: `Makes a TAP device and carries its frames to one peer as VXLAN, until Ctrl-C or
SIGTERM; then prints counters, and the device is gone. The peer can be another
kohaku tunnel or a kernel VXLAN device. Needs root (CAP_NET_ADMIN).`,
		Example: `  on 192.0.2.1:  kohaku tunnel --dev vx0 --vni 42 --local 192.0.2.1 --remote 192.0.2.2 --address 10.9.0.1/24
  on 192.0.2.2:  kohaku tunnel --dev vx0 --vni 42 --local 192.0.2.2 --remote 192.0.2.1 --address 10.9.0.2/24`,
		GroupID: groupDaemons,
		Args:    noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.check(c.CommandPath()); err != nil {
				return err
			}
			return a.runTunnel(c.Context(), f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.dev, "dev", "", "name of the `DEVICE` to make (required)")
	fl.StringVar(&f.vni, "vni", "", "VXLAN network identifier, `0..16777215` (required)")
	fl.StringVar(&f.remote, "remote", "", "the peer's underlay `ADDRESS` (required)")
	fl.StringVar(&f.local, "local", "", "own underlay `ADDRESS` to send from and listen on (else: all, routing decides)")
	fl.Uint16Var(&f.port, "port", encap.DefaultPort, "UDP port at both ends")
	fl.IntVar(&f.mtu, "mtu", 0, "MTU of the device in `BYTES`; 0: the underlay's less 50 over IPv4, 70 over IPv6")
	fl.IntVar(&f.queues, "queues", 0, "queues of the device; 0: as many as help")
	fl.StringVar(&f.fastPath, "fastpath", conf.FastPathAuto, "`auto|off`; off: never use the kernel's fast path")
	fl.StringVar(&f.address, "address", "", "give the device an `ADDRESS/PREFIX` and set it up")
	fl.BoolVar(&f.noTSO, "no-tso", false, "no TCP super-frames from and to the device")
	fl.BoolVar(&f.noUSO, "no-uso", false, "no UDP super-frames from and to the device")
	fl.BoolVar(&f.noUDPGSO, "no-udp-gso", false, "one send per datagram")
	fl.BoolVar(&f.noUDPGRO, "no-udp-gro", false, "one receive per datagram")
	fl.DurationVar(&f.stats, "stats", 0, "print a line of rates every `INTERVAL`, such as 1s")
	fl.StringVar(&f.pprof, "pprof", "", "serve net/http/pprof at this loopback `ADDRESS:PORT`")
	jsonFlag(c, &f.asJSON)
	if err := fl.MarkHidden("pprof"); err != nil {
		panic(err) // the flag's name is misspelt above
	}
	return c
}

func (a *app) runTunnel(ctx context.Context, f *tunnelFlags) error {
	log := slog.New(slog.NewTextHandler(a.errOut.w, nil))
	if f.pprof != "" {
		stop, err := servePprof(f.pprof, log)
		if err != nil {
			return err
		}
		defer stop()
	}
	mtu, err := f.deviceMTU()
	if err != nil {
		return err
	}
	c := engine.Config{Port: f.port, UDPGSO: !f.noUDPGSO, UDPGRO: !f.noUDPGRO, Log: log}
	if f.localAddr.IsValid() {
		c.Listen = []netip.Addr{f.localAddr}
	}
	e, err := engine.New(c)
	if err != nil {
		return engineFailure(f.port, err)
	}
	defer e.Close()

	o := tun.Options{Queues: f.queues, MTU: mtu, TSO: !f.noTSO, USO: !f.noUSO}
	if f.prefix.IsValid() { // the device is routed into, not a bridge's port
		o.SuperFrame = encap.OneSend(encap.InnerMTU(mtu))
	}
	dev, err := tun.OpenTAP(f.dev, o)
	if err != nil {
		return f.deviceFailure(err)
	}
	peer := engine.Peer{Remote: f.remoteAddr, Local: f.localAddr}
	if err := e.Add(engine.Tunnel{VNI: f.vniValue, Peer: peer, Device: dev}); err != nil {
		dev.Close()
		return &failure{tried: "start the tunnel", cause: err}
	}
	if err := f.dress(); err != nil {
		return err
	}
	a.tunnelReady(f, e, dev, mtu)

	start := time.Now()
	err = a.watchTunnel(ctx, f, e)
	r := tunnelReport{Seconds: time.Since(start).Seconds(), Engine: e.Stats()}
	if t := e.Tunnels(); len(t) > 0 {
		r.Tunnel = t[0]
	}
	if closing := e.Close(); err == nil && closing != nil {
		err = &failure{tried: "end the tunnel", cause: closing}
	}
	if f.asJSON {
		a.out.json(r)
	} else {
		a.printCounters(r)
	}
	return err
}

// deviceMTU is --mtu, or what the route to the peer leaves.
func (f *tunnelFlags) deviceMTU() (int, error) {
	path, err := (link.Kernel{}).PathTo(f.remoteAddr)
	if err != nil {
		if f.mtu != 0 {
			return f.mtu, nil // the route may come later
		}
		return 0, &failure{tried: "find out the underlay's MTU toward " + f.remote, cause: err, next: "give the device's MTU with --mtu, or set the underlay up first"}
	}
	if path.Own {
		return 0, &failure{
			tried: "make a tunnel to " + f.remote,
			cause: errors.New("that is an address of this machine"),
			next:  "--remote is the peer's address, --local one's own",
		}
	}
	if f.mtu != 0 {
		return f.mtu, nil
	}
	in, err := encap.UnderlayMTU(path.MTU).Inner(f.remoteAddr.Is6() && !f.remoteAddr.Is4In6())
	if err != nil {
		return 0, &failure{tried: "use " + path.Device + " as underlay", cause: err}
	}
	return int(in), nil
}

// deviceFailure explains why the device could not be made.
func (f *tunnelFlags) deviceFailure(err error) error {
	out := &failure{tried: "make the device " + f.dev, cause: err}
	if errors.Is(err, tun.ErrInUse) || errors.Is(err, tun.ErrNotTAP) {
		out.next = "choose another --dev; ip -d link show " + f.dev + " says what this one is"
	}
	return out
}

// dress sets the device up, with its address if one was asked for.
func (f *tunnelFlags) dress() error {
	k := link.Kernel{}
	_, err := k.EnsureNoQueue(f.dev)
	if err == nil {
		_, err = k.EnsureUp(f.dev)
	}
	if err == nil && f.prefix.IsValid() {
		_, err = k.EnsureAddrs(f.dev, []netip.Prefix{f.prefix}, nil)
	}
	if err != nil {
		return &failure{tried: "set " + f.dev + " up", cause: err}
	}
	return nil
}

// watchTunnel returns when the context ends or the device dies.
func (a *app) watchTunnel(ctx context.Context, f *tunnelFlags, e *engine.Engine) error {
	var tick <-chan time.Time
	if f.stats > 0 {
		t := time.NewTicker(f.stats)
		defer t.Stop()
		tick = t.C
	}
	var last engine.TunnelStats
	lastTime := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case dead := <-e.Failures():
			return &failure{
				tried: "go on: the device " + dead.Device + " died",
				cause: dead.Err,
				next:  "somebody deleted it; start the tunnel again",
			}
		case now := <-tick:
			t := e.Tunnels()[0]
			a.tunnelNote(f, "%s", rateLine(last, t, now.Sub(lastTime), now))
			last, lastTime = t, now
		}
	}
}

// engineFailure explains why the underlay sockets could not be had.
func engineFailure(port uint16, err error) error {
	f := &failure{tried: fmt.Sprintf("listen on UDP port %d", port), cause: err}
	var taken *engine.PortInUseError
	switch {
	case errors.As(err, &taken):
		f.tried = "listen on UDP " + taken.Addr.String()
		f.cause = fmt.Errorf("the port is taken by %s", taken.Holder)
		f.next = "end that, or use another --port at both ends"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		f.next = "--local must be an address of this machine: ip address shows them"
	}
	return f
}
