// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// standing gives benches without machines.
func standing(topologies []string, paths ...string) (out []*stand) {
	for _, topology := range topologies {
		out = append(out, &stand{bench: &bench{topology: topology, profile: Wire}, names: paths})
	}
	return out
}

// TestPlanFixed asserts the order of a given number of rounds: every workload on
// every bench in turn, the paths forwards and backwards, starting with another
// after each pair.
func TestPlanFixed(t *testing.T) {
	o := &Options{Rounds: 4, Workloads: []string{"tcp1", "rr"}}
	p := newPlan(o, standing([]string{Hop, Hub}, "a", Kernel, "b"), time.Time{})
	var got []string
	turn := []string{"tcp1 hop", "tcp1 hub", "rr hop", "rr hub"}
	for n := 0; ; n++ {
		x, pass, paths := p.next(time.Now())
		if x == nil {
			break
		}
		if name := x.workload + " " + x.topology; name != turn[n%4] || pass != n/4 {
			t.Errorf("pass %d is number %d of %s, want number %d of %s", n, pass, name, n/4, turn[n%4])
		}
		if n%4 == 0 {
			got = append(got, strings.Join(paths, " "))
		}
	}
	want := []string{"a kernel b", "b kernel a", "kernel b a", "a b kernel"}
	if !slices.Equal(got, want) {
		t.Errorf("passes %q, want %q", got, want)
	}
}

// TestPlanSpendsTimeWhereNeeded asserts that what is certain is left alone, that
// the least certain comes first, and that the time's end is the end.
func TestPlanSpendsTimeWhereNeeded(t *testing.T) {
	o := &Options{Workloads: []string{"tcp1", "udp64", "rr"}, Precision: 0.02}
	begun := time.Now()
	p := newPlan(o, standing([]string{Hop}, Veth, Kernel, Userspace), begun.Add(time.Minute))
	certain := func(half float64) func(string) float64 {
		return func(path string) float64 {
			if path == Userspace {
				return half
			}
			return 0.01
		}
	}
	count := map[string]int{}
	for range 3 * evenPasses {
		x, _, paths := p.next(begun)
		count[x.workload]++
		half := 0.5
		if x.workload == "tcp1" {
			half = 0.01 // by chance; the others go on, and it does, too
		}
		x.learn(count[x.workload], certain(half))
		if len(paths) != 3 {
			t.Errorf("pass %d of %s only over %v", count[x.workload], x.workload, paths)
		}
	}
	tasks := map[string]*task{}
	for _, x := range p.tasks {
		if tasks[x.workload] = x; count[x.workload] != evenPasses {
			t.Errorf("%d passes of %s, want %d of each to begin with", count[x.workload], x.workload, evenPasses)
		}
	}
	for w, half := range map[string]float64{"tcp1": 0.01, "udp64": 0.03, "rr": 0.1} {
		tasks[w].learn(evenPasses, certain(half))
	}
	for _, step := range []struct {
		want string
		half float64 // what the pass teaches
	}{{"rr", 0.02}, {"udp64", 0.025}, {"udp64", 0.015}} {
		x, _, paths := p.next(begun)
		if slices.Sort(paths); x.workload != step.want || !slices.Equal(paths, []string{Kernel, Userspace}) {
			t.Errorf("next is %s over %v, want %s over the kernel's and ours", x.workload, paths, step.want)
		}
		x.learn(x.passes, certain(step.half))
	}
	if x, _, _ := p.next(begun); x != nil {
		t.Errorf("all is certain, yet %s comes", x.workload)
	}
	tasks["rr"].learn(evenPasses, certain(0.5))
	if x, _, _ := p.next(begun.Add(2 * time.Minute)); x != nil {
		t.Errorf("the time is over, yet %s comes", x.workload)
	}
	late := newPlan(o, standing([]string{Hop}, Kernel, Userspace), begun)
	n := 0
	for x, _, _ := late.next(begun.Add(time.Hour)); x != nil; x, _, _ = late.next(begun.Add(time.Hour)) {
		n++
	}
	if n != leastPasses*len(o.Workloads) {
		t.Errorf("without any time %d passes, want %d of each workload", n, leastPasses)
	}
}

// TestPlanMakesUpForWhatDoesNotCount asserts that passes which do not count are
// made again, and by turns: one task that always has bad luck does not keep the
// others from theirs.
func TestPlanMakesUpForWhatDoesNotCount(t *testing.T) {
	o := &Options{Workloads: []string{"tcp1", "rr"}, Precision: 0.02}
	p := newPlan(o, standing([]string{Hop}, Kernel, Userspace), time.Now().Add(time.Minute))
	certain := func(string) float64 { return 0.01 }
	counted := map[string]int{}
	for n := range 400 {
		x, _, _ := p.next(time.Now())
		if x == nil {
			if n != 3*evenPasses {
				t.Errorf("%d passes, want %d: of one task every other did not count", n, 3*evenPasses)
			}
			return
		}
		if x.workload == "tcp1" || x.passes%2 == 0 {
			counted[x.workload]++
		}
		x.learn(counted[x.workload], certain)
	}
	t.Error("there is no end")
}

// TestPlanIsNotDrawnToABadMinute asserts that a task which a machine's bad minute
// made less certain is not measured mainly in that minute, and that all tasks end
// equally certain nevertheless.
func TestPlanIsNotDrawnToABadMinute(t *testing.T) {
	const minutes, bad = 10, 5
	o := &Options{Workloads: []string{"tcp1", "tcp4", "udp64", "udp1400"}, Precision: 0.001}
	now := time.Now()
	p := newPlan(o, standing([]string{Hop}, Kernel, Userspace), now.Add(minutes*time.Minute))
	variance := map[*task]float64{}
	var ofFirst [minutes]int // passes of the first task, by minute
	for n := 0; ; n++ {
		x, _, _ := p.next(now)
		if x == nil {
			break
		}
		minute := min(n/60, minutes-1)
		v := 0.01
		if x == p.tasks[0] {
			ofFirst[minute]++
			if minute == bad {
				v = 0.04 // a deviation doubled
			}
		}
		variance[x] += v
		now = now.Add(time.Second)
		x.learn(x.passes, func(string) float64 { return 2 * math.Sqrt(variance[x]) / float64(x.passes) })
	}
	total := 0
	for _, n := range ofFirst {
		total += n
	}
	if ofFirst[bad]*minutes > total*3/2 {
		t.Errorf("%v passes by minute, those of minute %d more than half above their share", ofFirst, bad)
	}
	for _, x := range p.tasks[1:] {
		if r := x.worst() / p.tasks[0].worst(); r < 0.8 || r > 1.25 {
			t.Errorf("%s ends %.2f times as uncertain as the task with the bad minute", x.workload, r)
		}
	}
}

func TestPlace(t *testing.T) {
	for _, tt := range []struct {
		cpus, machines int
		want           string
	}{
		{1, 2, "0;0"}, {2, 2, "0;1"}, {2, 3, "0;01;1"}, {3, 2, "0;12"}, {3, 3, "0;1;2"}, {8, 3, "01;234;567"},
	} {
		var cpus []int
		for i := range tt.cpus {
			cpus = append(cpus, i)
		}
		var got []string
		for i := range tt.machines {
			s := ""
			for _, c := range place(cpus, i, tt.machines) {
				s += string(rune('0' + c))
			}
			got = append(got, s)
		}
		if s := strings.Join(got, ";"); s != tt.want {
			t.Errorf("%d processors, %d machines: %s, want %s", tt.cpus, tt.machines, s, tt.want)
		}
	}
	cpus, err := processors()
	if err != nil || len(cpus) == 0 {
		t.Errorf("this machine's processors: %v, %v", cpus, err)
	}
}
