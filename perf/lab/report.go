// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"os"
	"runtime"
	"runtime/debug"
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
	Spread   float64 `json:"spread"` // largest less smallest, as a share of the median
	CPU      float64 `json:"cpu"`    // median
	CPUUnit  string  `json:"cpu_unit"`
	// Ratio is the median of the rounds' ratios to the kernel's VXLAN; 0 without it.
	Ratio       float64 `json:"ratio_to_kernel,omitempty"`
	RatioSpread float64 `json:"ratio_spread,omitempty"`
	// LowerIsBetter tells how to read Value and Ratio.
	LowerIsBetter bool               `json:"lower_is_better,omitempty"`
	Samples       []float64          `json:"samples"` // by round; 0: that round failed
	Detail        map[string]float64 `json:"detail,omitempty"`
	Error         string             `json:"error,omitempty"` // of the last round that failed

	readings map[int]Reading
}

// Machine says where figures come from.
type Machine struct {
	Kernel     string `json:"kernel"`
	Processor  string `json:"processor"`
	CPUs       int    `json:"cpus"`
	Congestion string `json:"tcp_congestion_control"`
	Go         string `json:"go"`
	Revision   string `json:"revision,omitempty"`
}

// Report is what Run found.
type Report struct {
	Started      time.Time         `json:"started"`
	Seconds      float64           `json:"seconds"` // the whole run
	Time         float64           `json:"seconds_per_measurement"`
	Machine      Machine           `json:"machine"`
	Missing      map[string]string `json:"missing,omitempty"` // data path: why it could not be had
	Measurements []*Measurement    `json:"measurements"`
}

// key identifies a measurement.
type key struct{ dataPath, topology, profile, workload string }

func (m *Measurement) key() key { return key{m.DataPath, m.Topology, m.Profile, m.Workload} }

func newReport(o *Options) *Report {
	r := &Report{
		Started: time.Now().Truncate(time.Second), Time: o.Time.Seconds(), Machine: thisMachine(),
		Missing: map[string]string{}, Measurements: []*Measurement{},
	}
	if o.Congestion != "" {
		r.Machine.Congestion = o.Congestion
	}
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
func (r *Report) add(k key, round int, a *answer, err error) {
	m := r.find(k)
	if m == nil {
		w, _ := workload(k.workload)
		m = &Measurement{
			DataPath: k.dataPath, Topology: k.topology, Profile: k.profile, Workload: k.workload,
			Unit: w.Unit, CPUUnit: w.CPU, LowerIsBetter: w.Lower, readings: map[int]Reading{},
		}
		r.Measurements = append(r.Measurements, m)
	}
	for len(m.Samples) <= round {
		m.Samples = append(m.Samples, 0)
	}
	if err != nil {
		m.Error = err.Error()
		return
	}
	m.readings[round] = *a.Reading
	m.Samples[round] = a.Reading.Value
}

// finish computes medians and ratios.
func (r *Report) finish() {
	r.Seconds = time.Since(r.Started).Seconds()
	for _, m := range r.Measurements {
		var values, cpu, ratios []float64
		details := map[string][]float64{}
		var reference *Measurement
		if m.DataPath != Kernel {
			reference = r.find(key{Kernel, m.Topology, m.Profile, m.Workload})
		}
		for round, reading := range m.readings {
			values = append(values, reading.Value)
			cpu = append(cpu, reading.CPU)
			for name, v := range reading.Detail {
				details[name] = append(details[name], v)
			}
			if reference != nil {
				if ref, ok := reference.readings[round]; ok && ref.Value > 0 {
					ratios = append(ratios, reading.Value/ref.Value)
				}
			}
		}
		m.Rounds = len(values)
		if m.Rounds == 0 {
			continue
		}
		m.Value, m.Spread, m.CPU = median(values), spread(values), median(cpu)
		if len(ratios) > 0 {
			m.Ratio, m.RatioSpread = median(ratios), spread(ratios)
		}
		if len(details) > 0 {
			m.Detail = map[string]float64{}
			for name, v := range details {
				m.Detail[name] = median(v)
			}
		}
	}
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
	if b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control"); err == nil {
		m.Congestion = strings.TrimSpace(string(b))
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
