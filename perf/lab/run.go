// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Run measures. It must be called inside a lab (package internal/lab). The report
// holds what was measured, also when an error ended the run early.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &runner{o: &o, report: newReport(&o), begun: time.Now()}
	benches := len(o.Profiles) * len(o.Topologies)
	r.total = benches * o.Rounds * len(o.Workloads) * len(o.DataPaths)
	for _, profile := range o.Profiles {
		for _, topology := range o.Topologies {
			// What one bench does not need, the others get.
			until := time.Now().Add((o.Budget - time.Since(r.begun)) / time.Duration(benches))
			benches--
			if err := r.bench(ctx, profile, topology, until); err != nil {
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
	noFlames    bool // perf cannot be used, the report says why
}

func (r *runner) progress(doing string) {
	if r.o.OnProgress == nil {
		return
	}
	p := Progress{Done: r.done, Total: r.total, Elapsed: time.Since(r.begun), Doing: doing}
	switch {
	case r.total == 0:
		p.Left = max(r.o.Budget-p.Elapsed, 0)
	case r.done > 0:
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
func (r *runner) bench(ctx context.Context, profile, topology string, until time.Time) (err error) {
	where := profile + ", " + topology
	r.progress(where + ": building")
	b, err := newBench(ctx, r.o, topology, profile)
	if err != nil {
		return fmt.Errorf("building %s: %w", where, err)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var names []string
	paths := map[string]path{}
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
		names = append(names, name)
		paths[name] = path{d, e}
	}
	plan := newPlan(r.o, names, until)
	for {
		w, pass, over := plan.next(time.Now())
		if w == "" {
			return r.flames(ctx, b, profile, names, paths)
		}
		for _, name := range over {
			r.progress(fmt.Sprintf("%s, round %d: %s over %s", where, pass+1, w, name))
			k := key{name, topology, profile, w}
			a, err := b.measure(paths[name], w, r.o.Time)
			r.done++
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r.report.add(k, pass, a, err)
		}
		if w == smallUDP && pass < pacedRounds {
			r.paced(b, profile, pass, over, paths)
		}
		for _, name := range over {
			if name != Kernel {
				plan.learn(w, name, r.report.certainty(key{name, topology, profile, w}))
			}
		}
	}
}

// smallUDP is the workload whose sender outruns some paths: a TAP does not hold
// back who sends into it, so how much of that arrives says little about loss.
const smallUDP = "udp64"

const (
	pacedRounds = 8
	// pacedLoss is what is lost of small datagrams that are sent no faster than the
	// kernel's path delivers them.
	pacedLoss = "lost_percent_at_the_kernels_rate"
)

// paced adds to a round's readings the loss of tunnels at the kernel's rate.
func (r *runner) paced(b *bench, profile string, round int, over []string, paths map[string]path) {
	k := key{Kernel, b.topology, profile, smallUDP}
	kernel := r.report.reading(k, round)
	if kernel == nil {
		return
	}
	w, _ := workload(smallUDP)
	rate := int64(kernel.Value*1e3) * int64(w.config.Length) * 8
	for _, name := range over {
		k.dataPath = name
		reading := r.report.reading(k, round)
		if name == Kernel || name == Veth || reading == nil {
			continue
		}
		a, err := b.first().ask(request{Measure: &measureRequest{
			Workload: smallUDP, From: paths[name].from, To: paths[name].to, Time: r.o.Time, Rate: rate,
		}})
		if err == nil { // else the round has just no such figure
			reading.Detail[pacedLoss] = a.Reading.Detail["lost_percent"]
		}
	}
}

// seconds is the time since the program started, of a clock that only goes on.
func seconds() float64 { return time.Since(begun).Seconds() }

var begun = time.Now()

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
		b.counters().describe(before, a.Reading.Detail)
	}
	return a, err
}
