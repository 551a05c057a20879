// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
)

func TestMedianAndSpread(t *testing.T) {
	for _, tt := range []struct {
		v              []float64
		median, spread float64
	}{
		{nil, 0, 0}, {[]float64{4}, 4, 0}, {[]float64{1, 2, 4}, 2, 0.75}, {[]float64{4, 1, 3, 2}, 2.5, 0.6},
		{[]float64{1, 2, 3, 4, 500}, 3, 2. / 3},
	} {
		if m := median(tt.v); m != tt.median {
			t.Errorf("median of %v: %v, want %v", tt.v, m, tt.median)
		}
		if s := spread(tt.v); math.Abs(s-tt.spread) > 1e-9 {
			t.Errorf("spread of %v: %v, want %v", tt.v, s, tt.spread)
		}
	}
}

// certain gives ten values around v.
func certain(v, noise float64) (out []float64) {
	for i := range 10 {
		out = append(out, v*(1+noise*(float64(i)-4.5)/4.5))
	}
	return out
}

// sample makes a report of two data paths with the given values by round; a
// negative one is a round that failed.
func sample(workload string, kernel, ours []float64) *Report {
	o := Options{}
	if err := o.Check(); err != nil {
		panic(err)
	}
	r := newReport(&o)
	for path, values := range map[string][]float64{Kernel: kernel, Userspace: ours} {
		for round, v := range values {
			if v < 0 {
				r.add(key{path, Hop, Wire, workload}, round, nil, errors.New("cable cut"))
				continue
			}
			r.add(key{path, Hop, Wire, workload}, round, &Reading{
				Value: v, CPU: 1 / v, Detail: map[string]float64{"p99_us": 7},
			}, nil)
		}
	}
	r.finish()
	return r
}

// TestFarRoundsDoNotCount asserts that what was measured while processors were far
// is left out where enough else was, and used, and told, where not; and that the
// distance is judged by the nearest, whenever that is seen.
func TestFarRoundsDoNotCount(t *testing.T) {
	o := Options{}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	r := newReport(&o)
	round := func(workload string, n int, kernel, ours, nanoseconds float64) (changed bool) {
		p := pass{Hop, Wire, workload, n}
		for path, v := range map[string]float64{Kernel: kernel, Userspace: ours} {
			r.add(p.over(path), n, &Reading{Value: v}, nil)
		}
		return r.apart(p, []float64{nanoseconds})
	}
	for n := range confident {
		if round("tcp1", n, 40, 10, 180) {
			t.Errorf("round %d changes what counts, and all are alike", n)
		}
	}
	k := key{Userspace, Hop, Wire, "tcp1"}
	if n := r.counts(k); n != confident {
		t.Errorf("%d rounds count, want all %d while nothing is nearer", n, confident)
	}
	if !round("tcp1", confident, 50, 25, 32) {
		t.Error("the processors come near, and nothing changes")
	}
	if n := r.counts(k); n != 1 {
		t.Errorf("%d rounds count, want the near one", n)
	}
	for n := 1; n < confident; n++ {
		if round("tcp1", confident+n, 50, 25, 30) {
			t.Error("a little nearer changes what counts")
		}
	}
	for n := range 4 {
		round("rr", n, 40, 50, 170)
	}
	r.finish()
	m := r.find(k)
	if math.Abs(m.Ratio-0.5) > 1e-9 || m.Value != 25 || m.Rounds != confident || m.LeftOut != confident || m.Far != 0 {
		t.Errorf("near and far: %+v, want the near ones only", m)
	}
	if m = r.find(key{Userspace, Hop, Wire, "rr"}); m.Rounds != 4 || m.Far != 4 || m.LeftOut != 0 || !strings.Contains(m.note(), "4 of 4 rounds with far processors") {
		t.Errorf("only far: %+v, note %q", m, m.note())
	}
	if r.Rounds != 2*confident+4 || r.FarRounds != confident+4 || r.Near != 30 || r.Farthest != 180 {
		t.Errorf("%d rounds, %d far, %v to %v ns", r.Rounds, r.FarRounds, r.Near, r.Farthest)
	}
	var out bytes.Buffer
	if err := r.WriteSummary(&out); err != nil || !strings.Contains(out.String(), "in 10 of 16 rounds the processors were far apart: 180 ns") {
		t.Errorf("summary (%v):\n%s", err, out.String())
	}
	// Figures of the two kinds are not compared as if they were alike.
	before := sample("rr", []float64{40, 40}, []float64{30, 30})
	for _, c := range r.Against(before) {
		if c.Worse || c.Better || !c.Unlike {
			t.Errorf("far against near: %+v", c)
		}
	}
}

// TestFarCyclesDoNotCount asserts that a round's figure is that of its cycles with
// near processors, if these are a quarter of it, and else of all; that a path's
// silence in a cycle counts; and that round trips have a median of medians.
func TestFarCyclesDoNotCount(t *testing.T) {
	for _, tt := range []struct {
		workload string
		turns    []float64
		apart    []float64
		want     float64
		far      int
	}{
		{"tcp1", []float64{4, 8, 1, 1}, []float64{40, 60, 200, 400}, 6, 0},
		{"tcp1", []float64{4, 0, 1, 1}, []float64{40, 60, 200, 400}, 2, 0},
		{"tcp1", []float64{4, 8, 6, 2}, []float64{200, 200, 190, 40}, 2, 0},
		{"tcp1", []float64{4, 8, 6, 2, 5}, []float64{200, 200, 190, 200, 40}, 5, 1},
		{"rr", []float64{50, 90, 40, 0}, []float64{40, 40, 40, 40}, 50, 0},
	} {
		r := newReport(&Options{})
		p := pass{Hop, Wire, tt.workload, 0}
		w, _ := workload(tt.workload)
		r.add(p.over(Kernel), 0, &Reading{Value: w.sum(tt.turns), turns: tt.turns}, nil)
		r.apart(p, tt.apart)
		r.finish()
		if m := r.find(p.over(Kernel)); m.Value != tt.want || m.Far != tt.far {
			t.Errorf("%+v: %v, %d far", tt, m.Value, m.Far)
		}
	}
}

// TestRatio asserts that a ratio is taken round by round: a machine that is half
// as fast in one round changes the medians but not the ratio.
func TestRatio(t *testing.T) {
	r := sample("tcp1", []float64{10, 5, 10, 5, 5}, []float64{8, 4, 8, 4, 4})
	m := r.find(key{Userspace, Hop, Wire, "tcp1"})
	if math.Abs(m.Ratio-0.8) > 1e-9 || m.RatioSpread > 1e-9 {
		t.Errorf("ratio %v, spread %v, want 0.8 and 0", m.Ratio, m.RatioSpread)
	}
	if m.Value != 4 || m.Spread != 1 || len(m.Ratios) != 5 || m.Rounds != 5 || m.CPU != 0.25 || m.Detail["p99_us"] != 7 {
		t.Errorf("%+v", m)
	}
	// A round that failed on either side is left out of the ratio.
	r = sample("tcp1", []float64{10, -1, 20}, []float64{9, 3, -1})
	m = r.find(key{Userspace, Hop, Wire, "tcp1"})
	if math.Abs(m.Ratio-0.9) > 1e-9 || m.Failed != 1 || m.Rounds != 2 || m.Error != "cable cut" || !r.Failed() {
		t.Errorf("with failures: %+v", m)
	}
	var out bytes.Buffer
	if err := r.WriteTable(&out); err != nil || !strings.Contains(out.String(), "1 of 3 rounds failed: cable cut") {
		t.Errorf("the table hides the failure (%v):\n%s", err, out.String())
	}
}

func TestAgainst(t *testing.T) {
	before := sample("tcp1", []float64{10, 10, 10}, []float64{8, 8, 8})
	for _, tt := range []struct {
		name          string
		workload      string
		before        *Report
		kernel, ours  []float64
		worse, better bool
	}{
		{"same ratio on a slower machine", "tcp1", before, []float64{5, 5, 5}, []float64{4, 4, 4}, false, false},
		{"worse", "tcp1", before, []float64{10, 10, 10}, []float64{7, 7, 7}, true, false},
		{"better", "tcp1", before, []float64{10, 10, 10}, []float64{9, 9, 9}, false, true},
		{"within five percent", "tcp1", before, []float64{10, 10, 10}, []float64{7.7, 7.7, 7.7}, false, false},
		{"within the spread", "tcp1", before, []float64{10, 10, 10}, []float64{5.5, 7, 9}, false, false},
		{"worse beyond both intervals", "tcp1", sample("tcp1", certain(10, 0), certain(8, 0.02)), certain(10, 0), certain(7, 0.02), true, false},
		{"within both intervals", "tcp1", sample("tcp1", certain(10, 0), certain(8, 0.2)), certain(10, 0), certain(7, 0.2), false, false},
		{"longer round trips", "rr", sample("rr", []float64{20, 20}, []float64{40, 40}), []float64{20, 20}, []float64{50, 50}, true, false},
		{"shorter round trips", "rr", sample("rr", []float64{20, 20}, []float64{40, 40}), []float64{20, 20}, []float64{30, 30}, false, true},
	} {
		changes := sample(tt.workload, tt.kernel, tt.ours).Against(tt.before)
		var ours *Change
		for i := range changes {
			if changes[i].DataPath == Userspace {
				ours = &changes[i]
			}
		}
		if ours == nil || ours.By != "ratio" || ours.Worse != tt.worse || ours.Better != tt.better {
			t.Errorf("%s: %+v, want worse %v, better %v", tt.name, ours, tt.worse, tt.better)
		}
		if tt.worse && !Worse(changes) {
			t.Errorf("%s: not said", tt.name)
		}
		var out bytes.Buffer
		if err := WriteChanges(&out, changes); err != nil || strings.Contains(out.String(), "WORSE") != Worse(changes) {
			t.Errorf("%s (%v):\n%s", tt.name, err, out.String())
		}
	}
	if c := before.Against(sample("tcp4", []float64{1}, []float64{1})); len(c) != 0 {
		t.Errorf("other workloads are compared: %+v", c)
	}
}

// TestGeneratorLimits asserts that a figure which a load generator may have
// limited is marked, in the table too, and others are not.
func TestGeneratorLimits(t *testing.T) {
	for _, tt := range []struct {
		name, path, workload   string
		veth, value            float64
		sender, receiver, busy float64 // percent; a negative busy: no engine
		want                   string
	}{
		{"near plain veth", Kernel, "tcp1", 10, 9.1, 50, 50, -1, "91 % of plain veth"},
		{"above it", Userspace, "udp64", 10, 15, 50, 50, 90, "150 % of plain veth"},
		{"the generator is busy, the engine idle", Userspace, "tcp1", 10, 5, 99, 50, 40, "a generator is busy 99 %"},
		{"so is the receiver", Userspace, "tcp1", 10, 5, 50, 97, 40, "a generator is busy 97 %"},
		{"the engine is busy too", Userspace, "tcp1", 10, 5, 99, 50, 95, ""},
		{"the kernel works in the generator's calls", Kernel, "tcp1", 10, 5, 99, 99, -1, ""},
		{"round trips", Userspace, "rr", 50, 100, 99, 99, 10, ""},
		{"far below", Userspace, "tcp4", 10, 5, 60, 60, 60, ""},
	} {
		r := newReport(&Options{})
		for path, v := range map[string]float64{Veth: tt.veth, tt.path: tt.value} {
			d := map[string]float64{"sender_cpu_percent": tt.sender, "receiver_cpu_percent": tt.receiver}
			if tt.busy >= 0 {
				d["engine_cpu_percent"] = tt.busy
			}
			r.add(key{path, Hop, Wire, tt.workload}, 0, &Reading{Value: v, Detail: d}, nil)
		}
		r.finish()
		got := r.find(key{tt.path, Hop, Wire, tt.workload}).Limited
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if veth := r.find(key{Veth, Hop, Wire, tt.workload}).Limited; veth != "" {
			t.Errorf("%s: plain veth is marked too: %q", tt.name, veth)
		}
		var out bytes.Buffer
		if err := r.WriteTable(&out); err != nil || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%s: the table does not say so (%v):\n%s", tt.name, err, out.String())
		}
	}
}

func TestReadReport(t *testing.T) {
	for _, in := range []string{"", "[]", "nonsense", `{"measurements":[null]}`} {
		if r, err := ReadReport(strings.NewReader(in)); err == nil {
			t.Errorf("%q: read as %+v", in, r)
		}
	}
}

func TestBar(t *testing.T) {
	for share, want := range map[float64]string{
		0: "", 1: strings.Repeat("█", barWidth), 2: strings.Repeat("█", barWidth), 0.5: strings.Repeat("█", barWidth/2), 1e-6: "▏",
	} {
		if got := bar(share); got != want {
			t.Errorf("bar of %v: %q, want %q", share, got, want)
		}
	}
}

// FuzzReadReport asserts that a file of unknown origin cannot break a comparison.
func FuzzReadReport(f *testing.F) {
	f.Add([]byte(`{"measurements":[{"datapath":"kernel","topology":"hop","profile":"wire","workload":"tcp1","value":1,"rounds":1,"ratio_to_kernel":1e-300}]}`))
	f.Add([]byte(`{"measurements":[{"datapath":"userspace","topology":"hop","profile":"wire","workload":"tcp1","value":-1,"rounds":-1}]}`))
	f.Add([]byte(`{}`))
	now := sample("tcp1", []float64{10, 10}, []float64{8, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ReadReport(bytes.NewReader(b))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := WriteChanges(&out, now.Against(r)); err != nil {
			t.Fatal(err)
		}
	})
}
