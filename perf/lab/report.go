// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"maps"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Measurement is one data path under one workload, over all rounds.
type Measurement struct {
	DataPath string  `json:"datapath"`
	Topology string  `json:"topology"`
	Profile  string  `json:"profile"`
	Workload string  `json:"workload"`
	Value    float64 `json:"value"` // the median
	Unit     string  `json:"unit"`
	Rounds   int     `json:"rounds"` // that gave a figure
	Spread   float64 `json:"spread"` // half of the samples lie so close together, as a share of the median
	CPU      float64 `json:"cpu"`    // median
	CPUUnit  string  `json:"cpu_unit"`
	// Ratio is the centre of the rounds' ratios to the kernel's VXLAN (see
	// centre); 0 without it. RatioCI is half of its 95 % confidence interval, as a
	// share of it: 0.02 is +-2 %. 0: too few rounds to tell.
	Ratio       float64   `json:"ratio_to_kernel,omitempty"`
	RatioCI     float64   `json:"ratio_ci,omitempty"`
	RatioSpread float64   `json:"ratio_spread,omitempty"`
	Ratios      []float64 `json:"ratios,omitempty"` // by round, those that gave one
	// ValueCI is the same for the value itself.
	ValueCI float64 `json:"value_ci,omitempty"`
	// LowerIsBetter tells how to read Value and Ratio.
	LowerIsBetter bool      `json:"lower_is_better,omitempty"`
	Samples       []float64 `json:"samples"`          // by round, those that count
	Apart         []float64 `json:"processors_ns"`    // by sample, see Report.Near
	Failed        int       `json:"failed,omitempty"` // rounds that gave none
	// Far is how many of the rounds were made with far processors, where there were
	// too few others; LeftOut how many such do not count.
	Far     int                `json:"far_rounds,omitempty"`
	LeftOut int                `json:"far_rounds_left_out,omitempty"`
	Detail  map[string]float64 `json:"detail,omitempty"`
	Error   string             `json:"error,omitempty"` // of the last round that failed
	// Limited says why the figure may be a load generator's limit, not the path's.
	Limited string `json:"limited,omitempty"`

	readings map[int]Reading
}

// Machine says where figures come from.
type Machine struct {
	Kernel     string `json:"kernel"`
	Processor  string `json:"processor"`
	CPUs       int    `json:"cpus"`
	Congestion string `json:"tcp_congestion_control"`
	Placed     bool   `json:"placed"` // every machine of the lab on processors of its own
	Go         string `json:"go"`
	Revision   string `json:"revision,omitempty"`
}

// Report is what Run found.
type Report struct {
	Started time.Time         `json:"started"`
	Seconds float64           `json:"seconds"` // the whole run
	Time    float64           `json:"seconds_per_measurement"`
	Machine Machine           `json:"machine"`
	Missing map[string]string `json:"missing,omitempty"` // data path: why it could not be had
	// Near and Farthest are the least and the greatest time, in nanoseconds, in
	// which a cache line went from the sender's processor to the receiver's; 0 with
	// one processor. FarRounds is how many of Rounds were made with far processors.
	Near         float64        `json:"processors_near_ns,omitempty"`
	Farthest     float64        `json:"processors_farthest_ns,omitempty"`
	Rounds       int            `json:"rounds"`
	FarRounds    int            `json:"far_rounds,omitempty"`
	Measurements []*Measurement `json:"measurements"`

	distances map[pass][]float64 // by cycle
}

// pass is one round of one workload on one bench.
type pass struct {
	topology, profile, workload string
	round                       int
}

// over is the measurement of a pass that goes over a data path.
func (p pass) over(dataPath string) key { return key{dataPath, p.topology, p.profile, p.workload} }

// key identifies a measurement.
type key struct{ dataPath, topology, profile, workload string }

func (m *Measurement) key() key { return key{m.DataPath, m.Topology, m.Profile, m.Workload} }

func newReport(o *Options) *Report {
	r := &Report{
		Started: time.Now().Truncate(time.Second), Time: o.Time.Seconds(), Machine: thisMachine(),
		Missing: map[string]string{}, Measurements: []*Measurement{}, distances: map[pass][]float64{},
	}
	r.Machine.Congestion = o.Congestion
	r.Machine.Placed = !o.Unplaced
	_, missing := DataPaths()
	for name, why := range missing {
		r.Missing[name] = why
	}
	return r
}

func (r *Report) missing(name, why string) { r.Missing[name] = why }

// find gives the measurement of a key, nil if there is none.
func (r *Report) find(k key) *Measurement {
	for _, m := range r.Measurements {
		if m.key() == k {
			return m
		}
	}
	return nil
}

// add records one round.
func (r *Report) add(k key, round int, reading *Reading, err error) {
	m := r.find(k)
	if m == nil {
		w, _ := workload(k.workload)
		m = &Measurement{
			DataPath: k.dataPath, Topology: k.topology, Profile: k.profile, Workload: k.workload,
			Unit: w.Unit, CPUUnit: w.CPU, LowerIsBetter: w.Lower, readings: map[int]Reading{},
		}
		r.Measurements = append(r.Measurements, m)
	}
	if err != nil {
		m.Error = err.Error()
		m.Failed++
		return
	}
	m.readings[round] = *reading
}

// reading gives what a round gave; nil if it gave nothing.
func (r *Report) reading(k key, round int) *Reading {
	if m := r.find(k); m != nil {
		if v, ok := m.readings[round]; ok {
			return &v
		}
	}
	return nil
}

// apart records how far the processors were in each cycle of a pass. It tells
// whether that changes which cycles of other passes count.
func (r *Report) apart(p pass, nanoseconds []float64) (changed bool) {
	nearest := r.Near
	for _, d := range nanoseconds {
		if nearest == 0 || d < nearest {
			nearest = d
		}
	}
	for _, cycles := range r.distances {
		for _, d := range cycles {
			changed = changed || d <= farther*r.Near && d > farther*nearest
		}
	}
	r.Near = nearest
	r.distances[p] = nanoseconds
	r.Farthest = max(r.Farthest, median(nanoseconds))
	return changed
}

// nearCycles tells which cycles of a pass had near processors, and whether they
// are enough for the pass to count as near; else all of its cycles make it a far one.
func (r *Report) nearCycles(p pass) (near []bool, enough bool) {
	n := 0
	for _, d := range r.distances[p] {
		is := d <= farther*r.Near
		near = append(near, is)
		if is {
			n++
		}
	}
	return near, n*leastNear >= len(near)
}

// leastNear is the least share of near cycles, as one in so many.
const leastNear = 4

// value gives the figure of a round.
func (r *Report) value(m *Measurement, round int) float64 {
	reading := m.readings[round]
	near, enough := r.nearCycles(m.pass(round))
	if !enough || len(reading.turns) == 0 || len(near) != len(reading.turns) {
		return reading.Value
	}
	var turns []float64
	for i, v := range reading.turns {
		if near[i] {
			turns = append(turns, v)
		}
	}
	w, _ := workload(m.Workload)
	return w.sum(turns)
}

// far tells whether processors were far in a round of a measurement.
func (r *Report) far(m *Measurement, round int) bool {
	_, near := r.nearCycles(m.pass(round))
	return !near
}

func (m *Measurement) pass(round int) pass { return pass{m.Topology, m.Profile, m.Workload, round} }

// counted gives the rounds that count, in order: those with near processors, or
// all where they are too few for a confidence interval.
func (r *Report) counted(m *Measurement) []int {
	all := slices.Sorted(maps.Keys(m.readings))
	near := slices.DeleteFunc(slices.Clone(all), func(round int) bool { return r.far(m, round) })
	if len(near) < confident {
		return all
	}
	return near
}

// counts gives how many passes with near processors there were.
func (r *Report) counts(k key) int {
	n := 0
	for p := range r.distances {
		if _, near := r.nearCycles(p); near && p.over(k.dataPath) == k {
			n++
		}
	}
	return n
}

// ratios gives the ratios to the kernel of the rounds that count and have both,
// in order; nothing where there is no reference.
func (r *Report) ratios(m *Measurement) []float64 {
	if m.DataPath == Kernel {
		return nil
	}
	reference := r.find(key{Kernel, m.Topology, m.Profile, m.Workload})
	if reference == nil {
		return nil
	}
	var out []float64
	for _, round := range r.counted(m) {
		if v, ref := r.value(m, round), r.value(reference, round); v > 0 && ref > 0 {
			out = append(out, v/ref)
		}
	}
	return out
}

// certainty gives half the confidence interval of what the measurement is judged
// by: its ratio, or its value where there is no reference.
func (r *Report) certainty(k key) float64 {
	m := r.find(k)
	if m == nil {
		return math.Inf(1)
	}
	v := r.ratios(m)
	if len(v) == 0 {
		for _, round := range r.counted(m) {
			v = append(v, r.value(m, round))
		}
	}
	_, half := centre(v)
	return half
}

// finish computes medians and ratios.
func (r *Report) finish() {
	r.Seconds = time.Since(r.Started).Seconds()
	r.Rounds, r.FarRounds = len(r.distances), 0
	for p := range r.distances {
		if _, near := r.nearCycles(p); !near {
			r.FarRounds++
		}
	}
	for _, m := range r.Measurements {
		var values, cpu []float64
		details := map[string][]float64{}
		m.Far, m.Apart = 0, []float64{}
		for _, round := range r.counted(m) {
			reading := m.readings[round]
			values = append(values, r.value(m, round))
			cpu = append(cpu, reading.CPU)
			for name, v := range reading.Detail {
				details[name] = append(details[name], v)
			}
			m.Apart = append(m.Apart, median(r.distances[m.pass(round)]))
			if r.far(m, round) {
				m.Far++
			}
		}
		m.Rounds, m.Samples, m.LeftOut = len(values), values, len(m.readings)-len(values)
		if m.Rounds == 0 {
			continue
		}
		m.Value, m.Spread, m.CPU = median(values), spread(values), median(cpu)
		_, m.ValueCI = known(values)
		if m.Ratios = r.ratios(m); len(m.Ratios) > 0 {
			m.Ratio, m.RatioCI = known(m.Ratios)
			m.RatioSpread = spread(m.Ratios)
		}
		if len(details) > 0 {
			m.Detail = map[string]float64{}
			for name, v := range details {
				m.Detail[name] = median(v)
			}
		}
	}
	r.judgeGenerators()
}

// known is centre for a report, which has no infinity.
func known(v []float64) (estimate, half float64) {
	estimate, half = centre(v)
	if math.IsInf(half, 0) {
		half = 0
	}
	return estimate, half
}

// Failed reports whether some round of some measurement gave no figure.
func (r *Report) Failed() bool {
	for _, m := range r.Measurements {
		if m.Error != "" {
			return true
		}
	}
	return false
}

// thisMachine describes the machine; what cannot be read stays empty.
func thisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Go: runtime.Version()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if name, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Processor = strings.TrimSpace(v)
				break
			}
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				m.Revision = s.Value
			}
		}
	}
	return m
}
