// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

func TestMachineCPU(t *testing.T) {
	// Two lines of /proc/stat, written by hand.
	a, err := parseStat([]byte("cpu  100 10 50 1000 20 5 15 7 0 0\ncpu0 1 2 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := parseStat([]byte("cpu  200 20 150 1100 10 6 34 17 0 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1000, 0)
	got := cpuMark{at: at, machine: a}.since(cpuMark{at: at.Add(2 * time.Second), machine: b})
	if got.User != 1.1 || got.System != 1 || got.IRQ != 0.2 || got.Steal != 0.1 || got.Elapsed != 2 {
		t.Errorf("%+v", got)
	}
	if math.Abs(got.Busy()-2.3) > 1e-9 {
		t.Errorf("busy %v, want 2.3", got.Busy())
	}
	if v := got.PerGbit(250e6); math.Abs(v-1.15) > 1e-9 {
		t.Errorf("%v s per Gbit of 2 Gbit, want 1.15", v)
	}
	if v := got.PerMillion(500_000); math.Abs(v-4.6) > 1e-9 {
		t.Errorf("%v s per million of half a million, want 4.6", v)
	}
	if got.PerGbit(0) != 0 || got.PerMillion(0) != 0 {
		t.Error("nothing was moved, and yet it has a price")
	}
	for _, bad := range []string{"", "cpu 1 2 3\n", "intr 1 2 3 4 5 6 7 8\n", "cpu a b c d e f g h\n"} {
		if v, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q read as %v", bad, v)
		}
	}
}

// TestSummary judges the histogram by sorting.
func TestSummary(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	hs := []*hdrhistogram.Histogram{newHistogram(), newHistogram()}
	var all []time.Duration
	for i := range 20000 {
		d := time.Duration(rnd.ExpFloat64()*float64(50*time.Microsecond)) + 10*time.Microsecond
		all = append(all, d)
		record(hs[i%2], d)
	}
	slices.Sort(all)
	l := summarize(hs, 2)
	if l.Count != 20000 || l.PerSecond() != 10000 {
		t.Errorf("%d requests, %v/s", l.Count, l.PerSecond())
	}
	for _, q := range []struct {
		at   float64
		got  time.Duration
		name string
	}{{0.5, l.P50, "p50"}, {0.9, l.P90, "p90"}, {0.99, l.P99, "p99"}, {0.999, l.P999, "p99.9"}} {
		want := all[int(q.at*float64(len(all)))-1]
		if math.Abs(float64(q.got-want)) > 0.002*float64(want) {
			t.Errorf("%s: %v, sorting gives %v", q.name, q.got, want)
		}
	}
	if math.Abs(float64(l.Min-all[0])) > 0.002*float64(all[0]) {
		t.Errorf("min %v, want %v", l.Min, all[0])
	}
	record(hs[0], time.Hour)
	record(hs[0], -1)
	if l := summarize(hs, 1); l.Max < maxLatency*99/100 || l.Max > maxLatency*101/100 || l.Count != 20002 {
		t.Errorf("an hour and a negative time: %+v", l)
	}
	if l := summarize(nil, 0); l.Count != 0 || l.Min != 0 || l.PerSecond() != 0 {
		t.Errorf("nothing: %+v", l)
	}
}

func TestPacer(t *testing.T) {
	p := newPacer(8e6, 1000) // one write a millisecond
	p.start = clock() - 10*time.Millisecond - 500*time.Microsecond
	if n := p.due(100); n < 11 || n > 60 {
		t.Errorf("%d writes are due after 10.5 ms, want 11 or a few more", n)
	}
	if n := p.due(4); n != 4 {
		t.Errorf("%d with a limit of 4", n)
	}
	p.took(1000)
	before := clock()
	if n := p.due(1); n != 0 {
		t.Errorf("%d writes are due that belong a second later", n)
	}
	if clock()-before < pollEvery {
		t.Error("it did not wait")
	}
	if n := newPacerUnlimited().due(64); n != 64 {
		t.Errorf("unlimited: %d", n)
	}
}

func newPacerUnlimited() *pacer {
	p := newPacer(0, 1000)
	return &p
}
