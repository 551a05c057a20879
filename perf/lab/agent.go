// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/link"
	"kohaku/perf"
	"kohaku/tun"
)

// request is one line to an agent: exactly one field is set. Every request has
// one answer.
type request struct {
	Serve   *serveRequest   `json:"serve,omitempty"`
	Measure *measureRequest `json:"measure,omitempty"`
	Begin   *beginRequest   `json:"begin,omitempty"`
	Open    *windowRequest  `json:"open,omitempty"`
	Window  *windowRequest  `json:"window,omitempty"`
	Settle  *settleRequest  `json:"settle,omitempty"`
	End     *endRequest     `json:"end,omitempty"`
	Tunnels *tunnelsRequest `json:"tunnels,omitempty"`
	Stats   bool            `json:"stats,omitempty"`
}

// serveRequest starts a perf server on an address.
type serveRequest struct{ Address netip.Addr }

// measureRequest runs one workload.
type measureRequest struct {
	Workload string
	From, To netip.Addr
	Time     time.Duration
	Rate     int64 `json:",omitempty"` // bit/s of payload; 0: as fast as it goes
}

// tunnelsRequest starts an engine with tunnels.
type tunnelsRequest struct {
	Listen  netip.Addr
	Port    uint16
	Tunnels []tunnelEnd
	Profile string // file for a processor profile of the engine's life; empty: none
}

// tunnelEnd is one machine's end of a tunnel.
type tunnelEnd struct {
	Device        string
	VNI           uint32
	Local, Remote netip.Addr // underlay
	Address       netip.Prefix
	MTU           int
}

// answer is one line from an agent.
type answer struct {
	Error   string               `json:"error,omitempty"`
	Reading *Reading             `json:"reading,omitempty"`
	Turn    *turn                `json:"turn,omitempty"`
	Tunnels []engine.TunnelStats `json:"tunnels,omitempty"`
	Engine  *engine.Stats        `json:"engine,omitempty"`
	CPU     float64              `json:"cpu,omitempty"` // seconds that this agent used so far
}

// Agent is the program of one machine of the lab: it does what the lines on in
// ask for and answers on out, until in ends or ctx is done. It is started by Run,
// in a machine's namespace.
func Agent(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	// The collector would work in some measurements and not in others: with this
	// limit it works once in hundreds.
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(512 << 20))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	a := &agent{ctx: ctx, tests: map[netip.Addr]*gated{}, meters: map[netip.Addr]*metered{}}
	defer a.wg.Wait()
	defer a.close()
	defer cancel()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	enc := json.NewEncoder(out)
	for lines.Scan() {
		var r request
		var ans answer
		err := json.Unmarshal(lines.Bytes(), &r)
		if err == nil {
			err = a.do(&r, &ans)
		}
		if err != nil {
			ans.Error = err.Error()
		}
		if err := enc.Encode(&ans); err != nil {
			return err
		}
	}
	return lines.Err()
}

type agent struct {
	ctx     context.Context
	wg      sync.WaitGroup
	engine  *engine.Engine
	profile *os.File
	tests   map[netip.Addr]*gated   // this end's, by where they go
	meters  map[netip.Addr]*metered // of the servers, by their address
}

func (a *agent) do(r *request, ans *answer) error {
	switch {
	case r.Serve != nil:
		return a.serve(r.Serve)
	case r.Measure != nil:
		reading, err := a.measure(r.Measure)
		ans.Reading = reading
		return err
	case r.Begin != nil:
		return a.begin(r.Begin)
	case r.Open != nil:
		return a.open(r.Open, ans)
	case r.Window != nil:
		return a.window(r.Window)
	case r.Settle != nil:
		return a.settle(r.Settle, ans)
	case r.End != nil:
		return a.end(r.End, ans)
	case r.Tunnels != nil:
		return a.tunnels(r.Tunnels)
	case r.Stats && a.engine != nil:
		s := a.engine.Stats()
		ans.Tunnels, ans.Engine = a.engine.Tunnels(), &s
		var err error
		ans.CPU, err = ownCPU()
		return err
	}
	return errors.New("the request asks for nothing")
}

// serve starts a server and returns when it listens.
func (a *agent) serve(r *serveRequest) error {
	m := &metered{meter: new(perf.Meter)}
	ready := make(chan error, 2)
	a.wg.Go(func() {
		ready <- perf.Serve(a.ctx, perf.ServerConfig{
			Listen: netip.AddrPortFrom(r.Address, 0), Meter: m.meter,
			Dedicated: true, OnListen: func(netip.AddrPort) { ready <- nil },
		})
	})
	a.meters[r.Address] = m
	return <-ready
}

// ownCPU gives the processor seconds that this process used.
func ownCPU() (float64, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, os.NewSyscallError("getrusage", err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9, nil
}

func (a *agent) measure(m *measureRequest) (*Reading, error) {
	w, cfg, err := client(m.Workload, m.From, m.To)
	if err != nil {
		return nil, err
	}
	cfg.Duration, cfg.Rate = m.Time, m.Rate
	if cfg.Mode == perf.Throughput {
		cfg.Omit = warmUp
	}
	ctx, cancel := context.WithTimeout(a.ctx, cfg.Duration+30*time.Second)
	defer cancel()
	reading, err := run(ctx, cfg, w)
	return &reading, err
}

// client gives a workload and its client between two addresses, but for how long.
func client(name string, from, to netip.Addr) (Workload, perf.ClientConfig, error) {
	w, ok := workload(name)
	if !ok {
		return w, perf.ClientConfig{}, fmt.Errorf("no workload %q", name)
	}
	cfg := w.config
	cfg.Server, cfg.Local = to.String(), from
	cfg.ConnectTimeout, cfg.Dedicated = 3*time.Second, true
	return w, cfg, nil
}

// attempts is how often a measurement is tried in which nothing arrived. It is so
// short that a machine which is busy with something else may sleep through it.
const attempts = 3

// run makes a measurement and reads its figure.
func run(ctx context.Context, cfg perf.ClientConfig, w Workload) (Reading, error) {
	for n := 1; ; n++ {
		r, err := perf.RunClient(ctx, cfg)
		if err != nil {
			return Reading{}, err
		}
		reading, err := w.read(r)
		if err == nil || !errors.Is(err, errNothing) || n == attempts {
			return reading, err
		}
		cfg.Duration *= 2
	}
}

// tunnels starts our data plane, as the daemons and `kohaku tunnel` do.
func (a *agent) tunnels(t *tunnelsRequest) error {
	if t.Profile != "" {
		f, err := os.Create(t.Profile)
		if err != nil {
			return err
		}
		a.profile = f
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	e, err := engine.New(engine.Config{Listen: []netip.Addr{t.Listen}, Port: t.Port, UDPGSO: true, UDPGRO: true, Nice: engine.DefaultNice})
	if err != nil {
		return err
	}
	a.engine = e
	k := link.Kernel{}
	for _, end := range t.Tunnels {
		// All of the lab's devices are routed into, as kohaku tunnel makes them.
		dev, err := tun.OpenTAP(end.Device, tun.Options{
			MTU: end.MTU, TSO: true, USO: true, SuperFrame: encap.OneSend(encap.InnerMTU(end.MTU)),
		})
		if err != nil {
			return err
		}
		err = e.Add(engine.Tunnel{
			VNI: encap.VNI(end.VNI), Device: dev,
			Peer: engine.Peer{Remote: end.Remote, Local: end.Local},
		})
		if err != nil {
			dev.Close()
			return err
		}
		if _, err := k.EnsureUp(end.Device); err != nil {
			return err
		}
		if _, err := k.EnsureAddrs(end.Device, []netip.Prefix{end.Address}, nil); err != nil {
			return err
		}
	}
	return nil
}

func (a *agent) close() {
	if a.engine != nil {
		a.engine.Close()
	}
	if a.profile != nil {
		pprof.StopCPUProfile()
		a.profile.Close()
	}
}
