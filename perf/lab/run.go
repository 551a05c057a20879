// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Run measures. It must be called inside a lab (package internal/lab). The report
// holds what was measured, also when an error ended the run early.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &runner{o: &o, report: newReport(&o), begun: time.Now()}
	r.total = len(o.Profiles) * len(o.Topologies) * o.Rounds * len(o.Workloads) * len(o.DataPaths)
	err := r.run(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		r.progress("done")
	}
	r.report.finish()
	return r.report, err
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

// stand is a bench with data paths on it.
type stand struct {
	*bench
	names []string
	paths map[string]path
}

func (s *stand) String() string { return s.profile + ", " + s.topology }

// run builds every topology in every profile, measures on all of them in turn,
// and takes them down.
func (r *runner) run(ctx context.Context) (err error) {
	var stands []*stand
	defer func() {
		for _, s := range stands {
			err = errors.Join(err, s.close())
		}
	}()
	for _, profile := range r.o.Profiles {
		for _, topology := range r.o.Topologies {
			s, err := r.build(ctx, profile, topology)
			if err != nil {
				return err
			}
			stands = append(stands, s)
		}
	}
	if err := r.measure(ctx, newPlan(r.o, stands, r.begun.Add(r.o.Budget))); err != nil {
		return err
	}
	for _, s := range stands {
		if err := r.flames(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// build makes one topology in one profile with every data path that can be had.
func (r *runner) build(ctx context.Context, profile, topology string) (_ *stand, err error) {
	r.progress(profile + ", " + topology + ": building")
	b, err := newBench(ctx, r.o, topology, profile)
	if err != nil {
		return nil, fmt.Errorf("building %s, %s: %w", profile, topology, err)
	}
	s := &stand{bench: b, paths: map[string]path{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	for _, name := range r.o.DataPaths {
		d := dataPathByName(name)
		e, err := d.up(ctx, b)
		if errors.Is(err, errUnavailable) {
			r.report.missing(name, err.Error())
			r.done += r.o.Rounds * len(r.o.Workloads)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("building %v, data path %s: %w", s, name, err)
		}
		if err := b.serve(e.to); err != nil {
			return nil, fmt.Errorf("%v, data path %s: %w", s, name, err)
		}
		s.names = append(s.names, name)
		s.paths[name] = path{d, e}
	}
	return s, nil
}

// measure makes passes as the plan wants them.
func (r *runner) measure(ctx context.Context, p *plan) error {
	cpus, err := processors()
	if err != nil {
		return err
	}
	from, to := place(cpus, 0, 2)[0], place(cpus, 1, 2)[0]
	for {
		t, number, over := p.next(time.Now())
		if t == nil {
			return nil
		}
		pass := pass{t.topology, t.profile, t.workload, number}
		r.progress(fmt.Sprintf("%v, round %d: %s", t, number+1, t.workload))
		apart, err := r.round(ctx, t, pass, over, func() (float64, error) { return distance(from, to) })
		if err != nil {
			return err
		}
		if t.workload == smallUDP && number < pacedRounds {
			r.paced(t.stand, pass, over)
		}
		learners := []*task{t}
		if r.report.apart(pass, apart) {
			learners = p.tasks // what counted elsewhere may not any more
		}
		for _, t := range learners {
			k := key{"", t.topology, t.profile, t.workload}
			t.learn(r.report.counts(k), func(path string) float64 {
				k.dataPath = path
				return r.report.certainty(k)
			})
		}
	}
}

// round measures one workload over some paths in turns, every other cycle in
// reverse, and gives how far the processors were in each cycle.
func (r *runner) round(ctx context.Context, t *task, pass pass, over []string, distance func() (float64, error)) (apart []float64, err error) {
	w, _ := workload(t.workload)
	var tests []*test
	failed := func(name string, err error) { r.report.add(pass.over(name), pass.round, nil, err) }
	for _, name := range over {
		x, err := t.begin(t.paths[name], w)
		if err != nil {
			failed(name, err)
			continue
		}
		tests = append(tests, x)
	}
	before, err := distance()
	if err != nil {
		return nil, err
	}
	for range cycles(r.o.Time, tests) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		tests = slices.DeleteFunc(tests, func(x *test) bool {
			err := x.take()
			if err != nil {
				failed(x.path.name, errors.Join(err, x.abandon()))
			}
			return err != nil
		})
		slices.Reverse(tests)
		after, err := distance()
		if err != nil {
			return nil, err
		}
		apart = append(apart, max(before, after))
		before = after
	}
	for _, x := range tests {
		reading, err := x.end()
		if err != nil {
			failed(x.path.name, err)
			continue
		}
		r.report.add(pass.over(x.path.name), pass.round, reading, nil)
	}
	r.done += len(over)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return apart, nil
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
func (r *runner) paced(s *stand, pass pass, over []string) {
	kernel := r.report.reading(pass.over(Kernel), pass.round)
	if kernel == nil {
		return
	}
	w, _ := workload(smallUDP)
	rate := int64(kernel.Value*1e3) * int64(w.config.Length) * 8
	for _, name := range over {
		reading := r.report.reading(pass.over(name), pass.round)
		if name == Kernel || name == Veth || reading == nil {
			continue
		}
		a, err := s.first().ask(request{Measure: &measureRequest{
			Workload: smallUDP, From: s.paths[name].from, To: s.paths[name].to, Time: r.o.Time, Rate: rate,
		}})
		if err == nil { // else the round has just no such figure
			reading.Detail[pacedLoss] = a.Reading.Detail["lost_percent"]
		}
	}
}
