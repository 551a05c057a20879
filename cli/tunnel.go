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
	"kohaku/internal/dataplane"
	"kohaku/internal/link"
	"kohaku/tun"
	"kohaku/tun/l3"
)

func (a *app) tunnelCommand() *cobra.Command {
	f := &tunnelFlags{}
	c := &cobra.Command{
		Use:   "tunnel --dev DEVICE --vni VNI --remote ADDRESS",
		Short: "One device, one peer: the engine without daemons",
		Long: `Makes a device and carries its frames to one peer as VXLAN, until Ctrl-C or
SIGTERM; then prints counters, and the device is gone. The peer can be another
kohaku tunnel or a kernel VXLAN device. Needs root (CAP_NET_ADMIN).

The device is a TAP, which carries Ethernet and can be a bridge's port, or with
--device tun a TUN, which carries IP alone: the command then answers ARP and
neighbour discovery for the device's addresses, and asks for its neighbours.`,
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
	fl.StringVar(&f.device, "device", conf.DeviceTAP, "kind of the device, `tap|tun`")
	fl.StringVar(&f.vni, "vni", "", "VXLAN network identifier, `0..16777215` (required)")
	fl.StringVar(&f.remote, "remote", "", "the peer's underlay `ADDRESS` (required)")
	fl.StringVar(&f.local, "local", "", "own underlay `ADDRESS` to send from and listen on (else: all, routing decides)")
	fl.Uint16Var(&f.port, "port", encap.DefaultPort, "UDP port at both ends")
	fl.IntVar(&f.mtu, "mtu", 0, "MTU of the device in `BYTES`; 0: the underlay's less 50 over IPv4, 70 over IPv6")
	fl.IntVar(&f.queues, "queues", 0, "queues of the device; 0: as many as help")
	fl.StringVar(&f.fastPath, "fastpath", conf.FastPathAuto, "`auto|off`; off: never use the kernel's fast path")
	fl.StringVar(&f.address, "address", "", "give the device an `ADDRESS/PREFIX` and set it up")
	fl.DurationVar(&f.linger, "linger", conf.DefaultHost().Engine.Linger, "how long a thread looks on for frames before it sleeps, `TIME`; 0: not at all")
	fl.IntVar(&f.nice, "nice", conf.DefaultHost().Engine.Nice, "nice value of the threads that carry frames, `-20..19`; 0: as this process has it")
	fl.Uint8Var(&f.ttl, "ttl", 0, "TTL of the outer header, `1..255`; 0: the system's default")
	fl.StringVar(&f.tos, "tos", "0", "TOS of the outer header, a `TOS` of 0..252 in steps of 4, or inherit: the inner packet's")
	fl.StringVar(&f.df, "df", "unset", "`unset|set`; set: routers on the underlay may not fragment (IPv4)")
	fl.BoolVar(&f.zeroChecksum6, "zero-checksum6", false, "accept datagrams over IPv6 without a UDP checksum")
	fl.BoolVar(&f.trustKernel, "trust-kernel", false, "use offloads also on kernels that are known to break them")
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
	off := dataplane.Offloads(conf.Offloads{
		TSO: !f.noTSO, USO: !f.noUSO, UDPGSO: !f.noUDPGSO, UDPGRO: !f.noUDPGRO, TrustKernel: f.trustKernel,
	}, log)
	c := engine.Config{
		Port: f.port, UDPGSO: off.UDPGSO, UDPGRO: off.UDPGRO, ZeroChecksum6: f.zeroChecksum6,
		Linger: dataplane.Linger(f.linger), Nice: f.nice,
		Circular: link.Kernel{}.LeadsInto, Log: log,
	}
	if f.localAddr.IsValid() {
		c.Listen = []netip.Addr{f.localAddr}
	}
	e, err := engine.New(c)
	if err != nil {
		return engineFailure(f.port, err)
	}
	defer e.Close()

	dev, err := f.openDevice(mtu, off)
	if err != nil {
		return f.deviceFailure(err)
	}
	peer := engine.Peer{Remote: f.remoteAddr, Local: f.localAddr, Outer: f.outer}
	if err := e.Add(engine.Tunnel{VNI: f.vniValue, Peer: peer, Device: dev}); err != nil {
		dev.Close()
		return &failure{tried: "start the tunnel", cause: err}
	}
	if err := f.dress(); err != nil {
		return err
	}
	if t, ok := dev.(*l3.Device); ok {
		stop, err := followAddrs(t)
		if err != nil {
			return &failure{tried: "follow the addresses of " + f.dev, cause: err}
		}
		defer stop()
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
	if loop, err := k.LeadsInto(f.remoteAddr, f.dev); err == nil && loop {
		return &failure{
			tried: "make a tunnel to " + f.remote,
			cause: fmt.Errorf("the route to it now leads into %s itself", f.dev),
			next:  "choose another --address, or give the peer a route of its own through the underlay",
		}
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
