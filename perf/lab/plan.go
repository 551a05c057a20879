// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"math"
	"slices"
	"time"
)

const (
	// leastPasses is what each workload gets whatever the time.
	leastPasses = 1
	// evenPasses is how many that count each workload gets, as far as there is
	// time, before time goes to the least certain, which could use up all of it;
	// fewer that agree may agree by chance.
	evenPasses = 8
	// mostPasses ends what does not become certain; the memory of one estimate
	// grows with its square.
	mostPasses = 400
)

// plan decides what a run measures next. A pass is one workload on one bench over
// several data paths that take turns, the kernel's among them; a ratio is taken
// within a pass. Odd passes go through the paths backwards, and every two passes
// start with another path, so that none is always the one after the same other.
//
// Benches take turns, so that each sees the whole run's time: a machine may be
// another one a minute later. Time goes where it is needed: next is always the
// task of which some ratio is least certain, and in it only the paths that are
// not certain enough yet, or half as uncertain as the worst.
type plan struct {
	o     *Options
	until time.Time
	tasks []*task
}

// task is one workload on one bench.
type task struct {
	*stand
	workload  string
	passes    int                // made
	counted   int                // of them, those that count in the report
	uncertain map[string]float64 // by path: half the confidence interval
}

func newPlan(o *Options, benches []*stand, until time.Time) *plan {
	p := &plan{o: o, until: until}
	for _, w := range o.Workloads {
		for _, b := range benches {
			if len(b.names) == 0 {
				continue
			}
			t := &task{stand: b, workload: w, uncertain: map[string]float64{}}
			for _, name := range b.names {
				if name != Kernel || len(b.names) == 1 {
					t.uncertain[name] = math.Inf(1)
				}
			}
			p.tasks = append(p.tasks, t)
		}
	}
	return p
}

// learn takes note of how many passes count by now, and how certain each path's
// ratio is.
func (t *task) learn(counted int, certainty func(path string) float64) {
	t.counted = counted
	for path := range t.uncertain {
		t.uncertain[path] = certainty(path)
	}
}

// next gives the task of the next pass, the pass's number among those of the
// task, and the paths in order; no task ends the run.
func (p *plan) next(now time.Time) (t *task, pass int, paths []string) {
	for _, x := range p.tasks {
		if !p.enough(x, now) && (t == nil || p.before(x, t)) {
			t = x
		}
	}
	if t == nil {
		return nil, 0, nil
	}
	pass = t.passes
	t.passes++
	return t, pass, p.order(t, pass)
}

// before tells whether task a needs a pass more than b does.
func (p *plan) before(a, b *task) bool {
	if p.o.Rounds > 0 || min(a.passes, b.passes) < leastPasses {
		return a.passes < b.passes
	}
	if min(a.counted, b.counted) >= evenPasses {
		if x, y := a.worst(), b.worst(); x != y {
			return x > y
		}
	}
	if a.counted != b.counted {
		return a.counted < b.counted
	}
	return a.passes < b.passes
}

func (t *task) worst() float64 {
	w := 0.0
	for _, half := range t.uncertain {
		w = max(w, half)
	}
	return w
}

// enough tells whether a task needs no pass any more.
func (p *plan) enough(t *task, now time.Time) bool {
	if p.o.Rounds > 0 {
		return t.passes >= p.o.Rounds
	}
	return t.passes >= leastPasses && now.After(p.until) || t.passes >= mostPasses ||
		t.counted >= evenPasses && t.worst() <= p.o.Precision
}

// order gives the paths of a pass.
func (p *plan) order(t *task, pass int) []string {
	var out []string
	for i := range t.names {
		name := t.names[(i+pass/2)%len(t.names)]
		half, judged := t.uncertain[name]
		if p.o.Rounds == 0 && t.counted >= evenPasses && judged && half <= max(p.o.Precision, t.worst()/2) {
			continue
		}
		out = append(out, name)
	}
	if pass%2 == 1 {
		slices.Reverse(out)
	}
	return out
}
