// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"math"
	"slices"
	"time"
)

const (
	// leastPasses is what each workload gets whatever the time: a figure needs a
	// second one that says how far to trust it.
	leastPasses = 2
	// evenPasses is how many each workload gets, as far as there is time, before
	// time goes to the least certain, which could use up all of it; fewer that agree
	// may agree by chance.
	evenPasses = 12
	// mostPasses ends what does not become certain; the memory of one estimate
	// grows with its square.
	mostPasses = 400
)

// plan decides what a bench measures next. A pass is one workload over several
// data paths, one short measurement each, the kernel's among them; a ratio is
// taken within a pass. Odd passes go through the paths backwards, so that
// whatever drifts favours nobody, and every two passes start with another path,
// so that none is always the one after the same other.
//
// Time goes where it is needed: next is always the workload of which some ratio
// is least certain, and in it only the paths that are not certain enough yet.
type plan struct {
	o         *Options
	paths     []string
	until     time.Time
	passes    map[string]int                // by workload
	uncertain map[string]map[string]float64 // by workload and path: half the confidence interval
}

func newPlan(o *Options, paths []string, until time.Time) *plan {
	p := &plan{o: o, paths: paths, until: until, passes: map[string]int{}, uncertain: map[string]map[string]float64{}}
	for _, w := range o.Workloads {
		p.uncertain[w] = map[string]float64{}
		for _, name := range paths {
			if name != Kernel || len(paths) == 1 {
				p.uncertain[w][name] = math.Inf(1)
			}
		}
	}
	return p
}

// learn takes note of how certain a path's ratio is by now.
func (p *plan) learn(workload, path string, half float64) { p.uncertain[workload][path] = half }

// next gives the workload of the next pass, the number of the pass among those
// of this workload, and the paths in order; no workload ends the bench.
func (p *plan) next(now time.Time) (workload string, pass int, paths []string) {
	if len(p.paths) == 0 {
		return "", 0, nil
	}
	for _, w := range p.o.Workloads {
		if !p.enough(w, now) && (workload == "" || p.before(w, workload)) {
			workload = w
		}
	}
	if workload == "" {
		return "", 0, nil
	}
	pass = p.passes[workload]
	p.passes[workload]++
	return workload, pass, p.order(workload, pass)
}

// before tells whether workload a needs a pass more than b does.
func (p *plan) before(a, b string) bool {
	even := p.passes[a] < p.passes[b]
	if p.o.Rounds > 0 || min(p.passes[a], p.passes[b]) < evenPasses {
		return even
	}
	if x, y := p.worst(a), p.worst(b); x != y {
		return x > y
	}
	return even
}

func (p *plan) worst(workload string) float64 {
	w := 0.0
	for _, half := range p.uncertain[workload] {
		w = max(w, half)
	}
	return w
}

// enough tells whether a workload needs no pass any more.
func (p *plan) enough(workload string, now time.Time) bool {
	n := p.passes[workload]
	if p.o.Rounds > 0 {
		return n >= p.o.Rounds
	}
	return n >= leastPasses && now.After(p.until) || n >= mostPasses || n >= evenPasses && p.worst(workload) <= p.o.Precision
}

// order gives the paths of a pass.
func (p *plan) order(workload string, pass int) []string {
	var out []string
	for i := range p.paths {
		name := p.paths[(i+pass/2)%len(p.paths)]
		half, judged := p.uncertain[workload][name]
		if p.o.Rounds == 0 && pass >= evenPasses && judged && half <= p.o.Precision {
			continue
		}
		out = append(out, name)
	}
	if pass%2 == 1 {
		slices.Reverse(out)
	}
	return out
}
