// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Options says what Run measures. Empty lists are everything that there is.
type Options struct {
	DataPaths  []string
	Topologies []string
	Profiles   []string
	Workloads  []string
	Rounds     int           // 0: 5
	Time       time.Duration // of one measurement, without warm-up; 0: 1.2 s

	// Program starts this program as an agent; see Agent. Required.
	Program []string
	// Congestion is the TCP congestion control to use on all machines; empty
	// leaves this machine's.
	Congestion string
	// ProfileDir gets a processor profile of each engine; empty: none.
	ProfileDir string
	// OnProgress is called before each measurement and after the last.
	OnProgress func(Progress)
}

// Progress says how far Run is.
type Progress struct {
	Done, Total int
	Elapsed     time.Duration
	Left        time.Duration // estimated; 0 while nobody knows
	Doing       string        // "offload, hub, round 2 of 5: tcp1 over kernel"
}

// Quick turns a run into one that takes less than a minute.
func (o *Options) Quick() {
	o.Rounds, o.Time = 2, 300*time.Millisecond
	if len(o.Topologies) == 0 {
		o.Topologies = []string{Hop}
	}
}

func (o *Options) check() (err error) {
	if o.Rounds == 0 {
		o.Rounds = 5
	}
	if o.Time == 0 {
		o.Time = 1200 * time.Millisecond
	}
	if o.Rounds < 1 || o.Rounds > 1000 {
		return fmt.Errorf("%d rounds: give 1 to 1000", o.Rounds)
	}
	if o.Time < 100*time.Millisecond || o.Time > time.Hour {
		return fmt.Errorf("measurements of %v: give 100ms to 1h", o.Time)
	}
	if err := checkCongestion(o.Congestion); err != nil {
		return err
	}
	names, missing := DataPaths()
	for _, d := range o.DataPaths {
		if why := missing[d]; why != "" {
			return fmt.Errorf("data path %s: %s", d, why)
		}
	}
	if o.DataPaths, err = choose("data path", names, o.DataPaths); err != nil {
		return err
	}
	var have []string
	for _, d := range o.DataPaths {
		if missing[d] == "" {
			have = append(have, d)
		}
	}
	o.DataPaths = have
	if o.Topologies, err = choose("topology", []string{Hop, Hub}, o.Topologies); err != nil {
		return err
	}
	if o.Profiles, err = choose("profile", []string{Offload, Wire}, o.Profiles); err != nil {
		return err
	}
	o.Workloads, err = choose("workload", Workloads(), o.Workloads)
	return err
}

// checkCongestion asks the kernel whether a congestion control may be used in
// namespaces: only those that the machine allows to everybody may.
func checkCongestion(name string) error {
	if name == "" {
		return nil
	}
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err != nil {
		return fmt.Errorf("congestion control %q: %w", name, err)
	}
	if have := strings.Fields(string(b)); !slices.Contains(have, name) {
		return fmt.Errorf("congestion control %q may not be used in a namespace here; allowed are %s (net.ipv4.tcp_allowed_congestion_control)", name, strings.Join(have, ", "))
	}
	return nil
}

// Check fills in defaults and refuses what is not known. Run does it too.
func (o *Options) Check() error { return o.check() }

// Run measures. It must be called inside a lab (package internal/lab). The report
// holds what was measured, also when an error ended the run early.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &runner{o: &o, report: newReport(&o), begun: time.Now()}
	r.total = len(o.Profiles) * len(o.Topologies) * o.Rounds * len(o.Workloads) * len(o.DataPaths)
	for _, profile := range o.Profiles {
		for _, topology := range o.Topologies {
			if err := r.bench(ctx, profile, topology); err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				r.report.finish()
				return r.report, err
			}
		}
	}
	r.progress("done")
	r.report.finish()
	return r.report, nil
}

type runner struct {
	o           *Options
	report      *Report
	begun       time.Time
	done, total int
}

func (r *runner) progress(doing string) {
	if r.o.OnProgress == nil {
		return
	}
	p := Progress{Done: r.done, Total: r.total, Elapsed: time.Since(r.begun), Doing: doing}
	if r.done > 0 {
		p.Left = time.Duration(float64(p.Elapsed) / float64(r.done) * float64(r.total-r.done))
	}
	r.o.OnProgress(p)
}

// path is a data path that stands.
type path struct {
	dataPath
	endpoints
}

// bench builds one topology in one profile, measures there, and takes it down.
func (r *runner) bench(ctx context.Context, profile, topology string) (err error) {
	where := profile + ", " + topology
	r.progress(where + ": building")
	b, err := newBench(ctx, r.o, topology, profile)
	if err != nil {
		return fmt.Errorf("building %s: %w", where, err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var paths []path
	for _, name := range r.o.DataPaths {
		d := dataPathByName(name)
		e, err := d.up(ctx, b)
		if errors.Is(err, errUnavailable) {
			r.report.missing(name, err.Error())
			r.done += r.o.Rounds * len(r.o.Workloads)
			continue
		}
		if err != nil {
			return fmt.Errorf("building %s, data path %s: %w", where, name, err)
		}
		paths = append(paths, path{d, e})
	}
	for round := range r.o.Rounds {
		for _, w := range r.o.Workloads {
			for i := range paths {
				// Each round starts with another path, so that none is always the
				// one after the same other.
				p := paths[(i+round)%len(paths)]
				r.progress(fmt.Sprintf("%s, round %d of %d: %s over %s", where, round+1, r.o.Rounds, w, p.name))
				k := key{p.name, topology, profile, w}
				a, err := b.measure(p, w, r.o.Time)
				r.done++
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				r.report.add(k, round, a, err)
			}
		}
	}
	return nil
}

// measure runs one workload over one path, and asks our engines what they did
// where it is their path.
func (b *bench) measure(p path, w string, d time.Duration) (*answer, error) {
	ours := p.name == Userspace
	var before engineCounters
	if ours {
		before = b.counters()
	}
	a, err := b.first().ask(request{Measure: &measureRequest{Workload: w, From: p.from, To: p.to, Time: d}})
	if err == nil && ours {
		if a.Reading.Detail == nil {
			a.Reading.Detail = map[string]float64{}
		}
		b.counters().describe(before, a.Reading.Detail)
	}
	return a, err
}
