// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPlanFixed asserts the order of a given number of rounds: every workload in
// turn, the paths forwards and backwards, starting with another after each pair.
func TestPlanFixed(t *testing.T) {
	o := &Options{Rounds: 4, Workloads: []string{"tcp1", "rr"}}
	p := newPlan(o, []string{"a", Kernel, "b"}, time.Time{})
	var got []string
	for {
		w, pass, paths := p.next(time.Now())
		if w == "" {
			break
		}
		if w == "rr" {
			if pass != len(got)-1 {
				t.Errorf("rr has pass %d after %d of tcp1", pass, len(got))
			}
			continue
		}
		got = append(got, strings.Join(paths, " "))
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
	p := newPlan(o, []string{Veth, Kernel, Userspace}, begun.Add(time.Minute))
	count := map[string]int{}
	for i := range 3 * evenPasses {
		w, _, paths := p.next(begun)
		if count[w]++; i == evenPasses {
			p.learn("tcp1", Veth, 0.01) // by chance; the others go on, and it does, too
			p.learn("tcp1", Userspace, 0.01)
		}
		if len(paths) != 3 {
			t.Errorf("pass %d of %s only over %v", count[w], w, paths)
		}
	}
	for _, w := range o.Workloads {
		if count[w] != evenPasses {
			t.Errorf("%d passes of %s, want %d of each to begin with", count[w], w, evenPasses)
		}
	}
	for w, half := range map[string]float64{"tcp1": 0.01, "udp64": 0.03, "rr": 0.1} {
		p.learn(w, Veth, 0.01)
		p.learn(w, Userspace, half)
	}
	for _, step := range []struct {
		want string
		half float64 // what the pass teaches
	}{{"rr", 0.02}, {"udp64", 0.025}, {"udp64", 0.015}} {
		w, _, paths := p.next(begun)
		if slices.Sort(paths); w != step.want || !slices.Equal(paths, []string{Kernel, Userspace}) {
			t.Errorf("next is %s over %v, want %s over the kernel's and ours", w, paths, step.want)
		}
		p.learn(w, Userspace, step.half)
	}
	if w, _, _ := p.next(begun); w != "" {
		t.Errorf("all is certain, yet %s comes", w)
	}
	p.learn("rr", Userspace, 0.5)
	if w, _, _ := p.next(begun.Add(2 * time.Minute)); w != "" {
		t.Errorf("the time is over, yet %s comes", w)
	}
	late := newPlan(o, []string{Kernel, Userspace}, begun)
	n := 0
	for w, _, _ := late.next(begun.Add(time.Hour)); w != ""; w, _, _ = late.next(begun.Add(time.Hour)) {
		n++
	}
	if n != leastPasses*len(o.Workloads) {
		t.Errorf("without any time %d passes, want %d of each workload", n, leastPasses)
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
