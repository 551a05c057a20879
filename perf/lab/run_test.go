// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRun measures every workload over the data paths that every machine has, in
// both topologies and profiles, shortly.
//
//	hop:  runner1 -- switch -- runner2
//	hub:  runner1 -- switch -- host -- switch -- runner2
func TestRun(t *testing.T) {
	_, missing := DataPaths()
	always := []string{Veth, Kernel, Userspace}
	for _, n := range always {
		if why, ok := missing[n]; ok {
			t.Fatalf("%s is missing: %s", n, why)
		}
	}
	var last Progress
	r, err := Run(t.Context(), Options{
		DataPaths: always, Rounds: 1, Time: 150 * time.Millisecond, Program: self,
		OnProgress: func(p Progress) {
			if p.Done < last.Done || p.Done > p.Total {
				t.Errorf("progress %+v after %+v", p, last)
			}
			last = p
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, why := range missing {
		if r.Missing[name] != why {
			t.Errorf("%s is not here (%s), and the report says %q", name, why, r.Missing[name])
		}
	}
	if want := 2 * 2 * len(always) * len(workloads); len(r.Measurements) != want || last.Done != want || last.Doing != "done" {
		t.Errorf("%d measurements, last progress %+v, want %d", len(r.Measurements), last, want)
	}
	for _, m := range r.Measurements {
		if m.Rounds != 1 || m.Value <= 0 || m.Error != "" {
			t.Errorf("%+v: %d rounds, value %v, error %q", m.key(), m.Rounds, m.Value, m.Error)
		}
		if frames := m.Detail["engine_tx_frames"]; (frames > 0) != (m.DataPath == Userspace) {
			t.Errorf("%+v: our engine sent %v frames", m.key(), frames)
		}
		for _, s := range engineStages {
			if _, ok := m.Detail[s.name]; ok != (m.DataPath == Userspace) {
				t.Errorf("%+v: engine stage %s: %v", m.key(), s.name, ok)
			}
		}
		if m.CPU < 0 || m.Unit == "" || m.CPUUnit == "" || (m.Ratio == 0) != (m.DataPath == Kernel) {
			t.Errorf("%+v: cpu %v %s, unit %q, ratio %v", m.key(), m.CPU, m.CPUUnit, m.Unit, m.Ratio)
		}
	}
	var table, chart, svg bytes.Buffer
	if err := errors.Join(r.WriteStages(&table), r.WriteSummary(&table), r.WriteTable(&table), r.WriteChart(&chart), r.WriteSVG(&svg)); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(chart.String(), "\n") {
		if n := len([]rune(line)); n > 80 {
			t.Errorf("a chart's line of %d characters: %s", n, line)
		}
	}
	for x := xml.NewDecoder(&svg); ; {
		if _, err := x.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}

	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ReadReport(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Against(again) {
		if c.Gain != 0 || c.Worse || c.Better {
			t.Errorf("compared with itself: %+v", c)
		}
	}
}

// TestProfiles asserts that a developer gets a profile of each engine, and of
// each data path a flame graph where perf can be used. As in a lab of an ordinary
// user it may not, the report then says why.
func TestProfiles(t *testing.T) {
	dir := t.TempDir()
	r, err := Run(t.Context(), Options{
		DataPaths: []string{Kernel, Userspace}, Topologies: []string{Hop}, Profiles: []string{Wire}, Workloads: []string{"tcp1"},
		Rounds: 1, Time: 150 * time.Millisecond, Program: self, ProfileDir: dir,
	})
	if err != nil {
		t.Fatal(err)
	}
	if why, ok := r.Missing["flame graphs"]; ok {
		if _, err := exec.LookPath("perf"); err == nil {
			t.Errorf("perf is here, but: %s", why)
		}
	} else {
		for _, ending := range []string{"folded", "svg"} {
			if files, _ := filepath.Glob(dir + "/*." + ending); len(files) != len(r.Measurements) {
				t.Errorf("flame graphs: %d files of %s, want %d", len(files), ending, len(r.Measurements))
			}
		}
	}
	profiles, _ := filepath.Glob(dir + "/*.pprof")
	if len(profiles) != 2 {
		t.Errorf("profiles of engines: %v, want two", profiles)
	}
	for _, p := range profiles {
		if s, err := os.Stat(p); err != nil || s.Size() == 0 {
			t.Errorf("profile %s is empty (%v)", p, err)
		}
	}

}

func TestRunIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Run(ctx, Options{
		DataPaths: []string{Veth}, Topologies: []string{Hop}, Workloads: []string{"tcp1"},
		Rounds: 100, Time: 5 * time.Second, Program: self,
		OnProgress: func(p Progress) {
			if strings.Contains(p.Doing, "round 1") {
				time.AfterFunc(200*time.Millisecond, cancel)
			}
		},
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v, want %v", err, context.Canceled)
	}
	if r == nil {
		t.Error("no report of what was measured")
	}
}

func TestAgentFails(t *testing.T) {
	_, err := Run(t.Context(), Options{
		DataPaths: []string{Veth}, Topologies: []string{Hop}, Profiles: []string{Wire}, Program: []string{"/bin/false"},
	})
	if err == nil || !strings.Contains(err.Error(), "agent") {
		t.Errorf("with a program that is no agent: %v", err)
	}
}

func TestAgentRefuses(t *testing.T) {
	var out bytes.Buffer
	in := `{"measure":{"Workload":"nonsense"}}` + "\n" + `not json` + "\n" + `{}` + "\n"
	if err := Agent(t.Context(), strings.NewReader(in), &out); err != nil {
		t.Fatal(err)
	}
	for dec, n := json.NewDecoder(&out), 0; n < 3; n++ {
		var a answer
		if err := dec.Decode(&a); err != nil || a.Error == "" {
			t.Errorf("answer %d: %+v, %v, want an error in it", n, a, err)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{DataPaths: []string{"pigeons"}}, {Topologies: []string{"ring"}}, {Profiles: []string{"wireless"}},
		{Workloads: []string{"tcp3"}}, {Rounds: -1}, {Time: time.Millisecond},
		{Budget: time.Millisecond}, {Precision: 2},
		{Congestion: "wishes"},
	} {
		if err := o.Check(); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
	o := Options{DataPaths: []string{Userspace, Kernel, Userspace}, Workloads: []string{"rr", "tcp1"}}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(o.DataPaths, " ") + "; " + strings.Join(o.Workloads, " "); got != "kernel userspace; tcp1 rr" {
		t.Errorf("chosen: %s", got)
	}
	if o.Rounds != 0 || o.Time == 0 || o.Budget == 0 || o.Precision == 0 || o.Congestion == "" || len(o.Topologies) != 2 || len(o.Profiles) != 2 {
		t.Errorf("defaults: %+v", o)
	}
}
