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
// another one a minute later. Time goes where it is needed, and only to the paths of
// a task that are not certain enough yet, or half as uncertain as the worst. How
// many passes each task needs is reckoned anew after every pass, and these are
// spread over all the time that is left (see share). To take the least certain task
// next would be simpler, and wrong: a bad minute of the machine makes a task less
// certain, so it would be measured in that minute over and over, and be the bad
// minute's figure in the end.
type plan struct {
	o     *Options
	until time.Time
	tasks []*task

	last  *task     // whose pass is being made
	begun time.Time // that pass
}

// task is one workload on one bench.
type task struct {
	*stand
	workload  string
	passes    int                // made
	counted   int                // of them, those that count in the report
	uncertain map[string]float64 // by path: half the confidence interval
	spent     time.Duration      // on passes
	due       float64            // passes by which it is behind its share of the time; negative: ahead
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
	p.charge(now)
	for _, x := range p.tasks {
		if !p.enough(x, now) && (t == nil || p.before(x, t)) {
			t = x
		}
	}
	if t == nil {
		return nil, 0, nil
	}
	p.last, p.begun = t, now
	pass = t.passes
	t.passes++
	if !p.even() {
		t.due--
	}
	return t, pass, p.order(t, pass)
}

// charge accounts for the time of the last pass.
func (p *plan) charge(now time.Time) {
	if p.last == nil {
		return
	}
	d := now.Sub(p.begun)
	p.last.spent += d
	if !p.even() {
		p.share(d, p.until.Sub(now))
	}
}

// even tells whether all tasks still get the same number of passes that count.
func (p *plan) even() bool {
	for _, t := range p.tasks {
		if t.counted < evenPasses {
			return true
		}
	}
	return false
}

// share gives every task its part of a time that went by, in passes, such that
// with the time that is left all tasks end equally certain: half an interval is as
// the inverse root of the passes.
func (p *plan) share(went, left time.Duration) {
	if left <= 0 {
		return
	}
	// more gives the passes that a task still needs to be as certain as that.
	more := func(t *task, half float64) float64 {
		return float64(t.passes) * max(math.Pow(t.worst()/half, 2)-1, 0)
	}
	takes := func(half float64) (seconds float64) {
		for _, t := range p.tasks {
			seconds += more(t, half) * t.spent.Seconds() / float64(max(t.passes, 1))
		}
		return seconds
	}
	least, most := p.o.Precision, p.o.Precision
	for _, t := range p.tasks {
		most = max(most, t.worst())
	}
	for range 50 { // a double's digits
		if half := (least + most) / 2; takes(half) > left.Seconds() {
			least = half
		} else {
			most = half
		}
	}
	for _, t := range p.tasks {
		t.due += more(t, most) * float64(went) / float64(left)
	}
}

// before tells whether task a needs a pass more than b does.
func (p *plan) before(a, b *task) bool {
	if p.o.Rounds > 0 || min(a.passes, b.passes) < leastPasses {
		return a.passes < b.passes
	}
	if p.even() {
		if a.counted != b.counted {
			return a.counted < b.counted
		}
		return a.passes < b.passes
	}
	if a.due != b.due {
		return a.due > b.due
	}
	return a.worst() > b.worst()
}

// worst is half the interval of the task's least certain path. One that has none
// yet, although the task had its passes, does not work; more time would not help.
func (t *task) worst() float64 {
	w := 0.0
	for _, half := range t.uncertain {
		if !math.IsInf(half, 0) {
			w = max(w, half)
		}
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
