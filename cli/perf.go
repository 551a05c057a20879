// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/spf13/cobra"

	"kohaku/perf"
	"kohaku/perf/iperf"
)

func (a *app) perfCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "perf",
		Short: "Measure it: throughput, loss, latency, and what they cost",
		Long: `Measures a path between two ends. server and client speak iperf3's protocol, so
either end may be a stock iperf3 (3.12); round trips (--rr) and connection rate
(--crr) need kohaku at both ends.`,
		GroupID: groupLook,
		Args:    subcommandOnly,
		RunE:    needSubcommand,
	}
	c.AddCommand(a.perfServerCommand(), a.perfClientCommand(), a.perfPathCommand(), a.perfLabCommand(), a.perfAgentCommand())
	return c
}

// perfFlags are the flags of perf client whose text needs reading.
type perfFlags struct {
	port                              uint16
	time, omit, interval              string
	bytes, length, rate, window, bind string
	rr, crr, asJSON                   bool
	userspace                         userspaceFlags
	cfg                               perf.ClientConfig
}

func (a *app) perfClientCommand() *cobra.Command {
	f := &perfFlags{}
	c := &cobra.Command{
		Use:   "client ADDRESS",
		Short: "Measure against a perf server",
		Long: `Measures against "kohaku perf server" or "iperf3 -s" at ADDRESS: a line for each
interval, then a summary with the processor time that it cost this machine. The
flags are iperf3's where iperf3 has them.

With --userspace this process is a machine on the overlay by itself, with a TCP/IP
stack of its own and no device: nothing but an ordinary UDP socket is needed. The
peer, which may be a kernel VXLAN device, must have this machine as its remote. It
tells whether the way works and where packets get lost; a device is faster.`,
		Example: `  kohaku perf client 192.0.2.2 -P 4 -t 5
  kohaku perf client 192.0.2.2 -u -b 0 -l 1400
  kohaku perf client 192.0.2.2 --rr -u
  kohaku perf client 10.9.0.2 --userspace --vni 7 --remote 192.0.2.2 --address 10.9.0.1/24`,
		Args: args(1, 1, "ADDRESS"),
		RunE: func(c *cobra.Command, given []string) error {
			if err := f.config(c, given[0]); err != nil {
				return err
			}
			return a.runPerfClient(c.Context(), f)
		},
	}
	fl := c.Flags()
	fl.Uint16VarP(&f.port, "port", "p", iperf.DefaultPort, "the server's `PORT`, TCP and UDP")
	fl.BoolVarP(&f.cfg.UDP, "udp", "u", false, "UDP in place of TCP")
	fl.IntVarP(&f.cfg.Streams, "parallel", "P", 1, "`N` streams side by side, in each direction")
	fl.StringVarP(&f.time, "time", "t", "10", "measure for `SECONDS`")
	fl.StringVarP(&f.bytes, "bytes", "n", "", "move `AMOUNT` in place of measuring for a time, such as 100M")
	fl.StringVarP(&f.omit, "omit", "O", "0", "do not count the first `SECONDS`")
	fl.BoolVarP(&f.cfg.Reverse, "reverse", "R", false, "the server sends")
	fl.BoolVar(&f.cfg.Bidir, "bidir", false, "both send")
	fl.StringVarP(&f.length, "length", "l", "", "`BYTES` of a write (TCP: 128K), datagram (UDP: what fits the path) or request (64)")
	fl.StringVarP(&f.rate, "bitrate", "b", "", "`RATE` of each stream in bit/s, such as 100M; 0: unlimited (TCP: 0, UDP: 1M)")
	fl.StringVarP(&f.window, "window", "w", "", "socket buffers of `BYTES`")
	fl.BoolVarP(&f.cfg.NoDelay, "no-delay", "N", false, "TCP_NODELAY: do not wait to fill segments")
	fl.StringVarP(&f.interval, "interval", "i", "1", "`SECONDS` between two lines; 0: only the summary")
	fl.StringVarP(&f.bind, "bind", "B", "", "own `ADDRESS` to measure from")
	fl.BoolVar(&f.cfg.Wide, "udp-counters-64bit", false, "64-bit sequence numbers, for more than 4 billion datagrams")
	fl.BoolVar(&f.rr, "rr", false, "round trips: one request after the other on each stream")
	fl.BoolVar(&f.crr, "crr", false, "connection rate: connect, one request, disconnect")
	f.userspace.define(c)
	jsonFlag(c, &f.asJSON)
	return c
}

// config turns flags into what perf takes.
func (f *perfFlags) config(c *cobra.Command, server string) (err error) {
	cfg := &f.cfg
	cfg.Server, cfg.Port = server, int(f.port)
	var length, window int64
	for _, v := range []struct {
		flag, text string
		read       func(string) error
	}{
		{"time", f.time, into(&cfg.Duration, perf.ParseSeconds)},
		{"omit", f.omit, into(&cfg.Omit, perf.ParseSeconds)},
		{"interval", f.interval, into(&cfg.Interval, perf.ParseSeconds)},
		{"bytes", f.bytes, into(&cfg.Bytes, perf.ParseBytes)},
		{"length", f.length, into(&length, perf.ParseBytes)},
		{"window", f.window, into(&window, perf.ParseBytes)},
		{"bitrate", f.rate, into(&cfg.Rate, perf.ParseRate)},
		{"bind", f.bind, into(&cfg.Local, netip.ParseAddr)},
	} {
		if v.text == "" {
			continue
		}
		if err := v.read(v.text); err != nil {
			return usagef(c.CommandPath(), "--%s: %v", v.flag, err)
		}
	}
	cfg.Length, cfg.Window = int(length), int(window)
	if cfg.Bytes != 0 && !c.Flags().Changed("time") {
		cfg.Duration = 0
	}
	switch {
	case f.rr && f.crr:
		return usagef(c.CommandPath(), "--rr and --crr at once: a test measures one of them")
	case f.rr:
		cfg.Mode = perf.RoundTrip
	case f.crr:
		cfg.Mode = perf.Connect
	case cfg.UDP && f.rate == "":
		cfg.Rate = perf.DefaultUDPRate
	}
	if err := f.userspace.check(c, cfg); err != nil {
		return err
	}
	if err := cfg.Check(); err != nil {
		return usagef(c.CommandPath(), "%v", err)
	}
	return nil
}

// into reads a text into a variable.
func into[T any](to *T, read func(string) (T, error)) func(string) error {
	return func(s string) (err error) {
		*to, err = read(s)
		return err
	}
}

func (a *app) runPerfClient(ctx context.Context, f *perfFlags) error {
	p := perf.NewPrinter(a.out.w)
	if !f.asJSON {
		f.cfg.OnStart, f.cfg.OnInterval = p.Start, p.Interval
	}
	done, err := f.userspace.open(&f.cfg)
	if err != nil {
		return err
	}
	defer done()
	f.cfg.Dedicated = true
	r, err := perf.RunClient(ctx, f.cfg)
	switch {
	case r != nil && f.asJSON:
		a.out.json(r.JSON())
	case r != nil:
		p.Summary(r)
	case f.asJSON:
		a.out.json(map[string]string{"error": err.Error()})
	}
	if err == nil {
		return p.Err()
	}
	if isCancel(ctx, err) {
		return errInterrupted
	}
	return &failure{tried: "measure against " + f.cfg.Server, cause: err}
}

func (a *app) perfServerCommand() *cobra.Command {
	var (
		cfg                        perf.ServerConfig
		port                       uint16
		bind, interval, rate, most string
		allow                      []string
		asJSON                     bool
	)
	c := &cobra.Command{
		Use:   "server",
		Short: "Answer perf clients and iperf3 -c",
		Long: `Answers "kohaku perf client" and "iperf3 -c", one test at a time, until Ctrl-C. A
second client is told that the server is busy. Everybody who can reach the port
may measure, and measuring fills the link: --allow and --bind limit who that is.

With --json, one JSON value for each test.`,
		Args: noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			at := netip.AddrPortFrom(netip.Addr{}, port)
			for _, v := range []struct {
				flag, text string
				read       func(string) error
			}{
				{"interval", interval, into(&cfg.Interval, perf.ParseSeconds)},
				{"max-rate", rate, into(&cfg.MaxRate, perf.ParseRate)},
				{"max-time", most, into(&cfg.MaxDuration, perf.ParseSeconds)},
				{"bind", bind, func(s string) error {
					ip, err := netip.ParseAddr(s)
					at = netip.AddrPortFrom(ip, port)
					return err
				}},
			} {
				if v.text == "" {
					continue
				}
				if err := v.read(v.text); err != nil {
					return usagef(c.CommandPath(), "--%s: %v", v.flag, err)
				}
			}
			for _, s := range allow {
				p, err := netip.ParsePrefix(s)
				if err != nil {
					return usagef(c.CommandPath(), "--allow %s: must be ADDRESS/PREFIX, such as 10.0.0.0/8", s)
				}
				cfg.Allow = append(cfg.Allow, p)
			}
			cfg.Listen = at
			return a.runPerfServer(c.Context(), cfg, asJSON)
		},
	}
	fl := c.Flags()
	fl.Uint16VarP(&port, "port", "p", iperf.DefaultPort, "listen on `PORT`, TCP and UDP")
	fl.StringVarP(&bind, "bind", "B", "", "listen on `ADDRESS` only (else: all)")
	fl.BoolVarP(&cfg.OneOff, "one-off", "1", false, "end after one test")
	fl.StringVarP(&interval, "interval", "i", "1", "`SECONDS` between two lines; 0: only the summary")
	fl.StringSliceVar(&allow, "allow", nil, "answer clients in `ADDRESS/PREFIX` only; may be given several times")
	fl.StringVar(&rate, "max-rate", "", "refuse tests of more than `RATE` bit/s over all streams, and unlimited ones")
	fl.StringVar(&most, "max-time", "", "refuse tests of more than `SECONDS`")
	jsonFlag(c, &asJSON)
	return c
}

func (a *app) runPerfServer(ctx context.Context, cfg perf.ServerConfig, asJSON bool) error {
	cfg.Log = slog.New(slog.NewTextHandler(a.errOut.w, nil))
	cfg.Dedicated = true
	p := perf.NewPrinter(a.out.w)
	cfg.OnListen = func(at netip.AddrPort) {
		fmt.Fprintf(a.errOut.w, "kohaku perf server: listening on %v, TCP and UDP\n", at)
	}
	if asJSON {
		enc := json.NewEncoder(a.out.w)
		enc.SetIndent("", "  ")
		cfg.OnResult = func(r *perf.Result) {
			if err := enc.Encode(r.JSON()); err != nil && a.out.err == nil {
				a.out.err = err
			}
		}
	} else {
		cfg.OnStart, cfg.OnInterval = p.Start, p.Interval
		cfg.OnResult = p.Summary
	}
	if err := perf.Serve(ctx, cfg); err != nil {
		return &failure{tried: "serve perf clients", cause: err}
	}
	return p.Err()
}
