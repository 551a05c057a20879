// SPDX-License-Identifier: Apache-2.0

package path_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"kohaku/internal/api"
	"kohaku/perf/path"
)

// seen is a machine with 4 processors that has nothing to complain of.
func seen(runner string) api.PerfSeen {
	s := api.PerfSeen{
		Runner: runner, BootID: "boot of " + runner, Seconds: 2, CPUs: 4, Usable: 4, Busy: 0.3, Run: 0.6, Wait: 0.05,
		Threads:  []api.PerfThread{{TID: 10, Run: 0.5, Wait: 0.03}, {TID: 11, Run: 0.1, Wait: 0.02}},
		Underlay: []api.PerfDevice{{Name: "eth0", MTU: 1500}},
		Tunnels:  []api.PerfDevice{{Name: "vxlan0", MTU: 1450}},
		Engine:   api.PerfEngine{Workers: 4, Sent: 1e6, Received: 1e6},
	}
	for cpu := range 4 {
		s.Cores = append(s.Cores, api.PerfCore{CPU: cpu, Usable: true, Busy: 0.3, SoftIRQ: 0.1})
	}
	return s
}

// hop is a test between a runner and the Host at a rate in Mbit/s.
func hop(network string, mbit float64) path.Test {
	return path.Test{
		From: "r1", Network: network, Mode: api.PerfTCP, Flows: 4,
		Figures: api.PerfFigures{Bits: mbit * 1e6}, Seen: []api.PerfSeen{seen("r1"), seen("")},
	}
}

func TestJudge(t *testing.T) {
	const r1, host = 0, 1 // in Seen
	type change func(e *path.Evidence)
	overlay := func(mbit float64) change { return func(e *path.Evidence) { e.Overlay.Figures.Bits = mbit * 1e6 } }
	see := func(machine int, do func(s *api.PerfSeen)) change {
		return func(e *path.Evidence) { do(&e.Overlay.Seen[machine]) }
	}
	off := see(r1, func(s *api.PerfSeen) { s.Underlay[0].Off = []string{"tso"} })
	mtu := func(underlay, overlay int) change {
		return func(e *path.Evidence) {
			for _, s := range e.Overlay.Seen {
				s.Underlay[0].MTU, s.Tunnels[0].MTU = underlay, overlay
			}
		}
	}
	busy := func(s *api.PerfSeen) { s.Busy = 0.97 }
	hotThread := func(s *api.PerfSeen) {
		s.Threads = []api.PerfThread{{TID: 10, Run: 0.98}, {TID: 11, Run: 0.1}}
		s.Cores[0].Busy = 0.99
	}
	onUnderlay := func(do func(s *api.PerfSeen)) change {
		return func(e *path.Evidence) { do(&e.Limits[0].Seen[r1]) }
	}
	oneKernel := func(e *path.Evidence) {
		for i := range e.Overlay.Seen {
			e.Overlay.Seen[i].BootID = "one"
		}
	}
	tests := []struct {
		name    string
		changes []change
		want    path.Cause
		says    string
		also    []string
	}{
		{"all is well", nil, path.Nothing, "the overlay gives 75 % of the underlay", nil},
		{"as fast as the underlay", []change{overlay(930)}, path.Underlay, "only 1.00 Gbit/s from r1 to the Host, and the overlay 93 %", nil},
		{"as fast, but processors are the limit of both", []change{overlay(930), onUnderlay(hotThread)}, path.Nothing, "93 %", nil},
		{"a setting does not matter when the wire is full", []change{overlay(930), off, mtu(9000, 1450)}, path.Underlay, "underlay itself", nil},
		{"offload", []change{off}, path.Offload, "offload tso is off on eth0 of r1", nil},
		{"offload at both", []change{off, see(host, func(s *api.PerfSeen) { s.Underlay[0].Off = []string{"tx", "gso"} })},
			path.Offload, "tso is off on eth0 of r1, and tx, gso are off on eth0 of the Host", nil},
		{"offload explains a busy processor", []change{off, see(r1, busy)}, path.Offload, "tso", []string{"CPU of r1"}},
		{"MTU", []change{mtu(9000, 1450)}, path.MTU, "MTU 1450 on a 9000 underlay", nil},
		{"MTU a little smaller", []change{mtu(1500, 1400)}, path.Nothing, "", nil},
		{"MTU too large", []change{mtu(1500, 1500)}, path.MTU, "too large for the underlay's 1500", nil},
		{"MTU differs", []change{mtu(9000, 1450), see(r1, func(s *api.PerfSeen) { s.Underlay[0].MTU = 1500 })},
			path.MTU, "1500 on eth0 of r1, 9000 on eth0 of the Host", nil},
		{"offload and MTU", []change{off, mtu(9000, 1450)}, path.Offload, "tso", []string{"MTU 1450"}},
		{"one thread", []change{see(host, hotThread)}, path.OneQueue, "one thread of the daemon is busy for 98 %", nil},
		{"one thread, but one flow", []change{see(host, hotThread), func(e *path.Evidence) { e.Overlay.Flows = 1 }}, path.OneFlow, "as fast as one processor of the Host carries it", nil},
		{"one processor receives", []change{see(host, func(s *api.PerfSeen) { s.Cores[0] = api.PerfCore{CPU: 3, Busy: 0.99, SoftIRQ: 0.95} })},
			path.OneQueue, "one queue carries everything on the Host: processor 3 does nothing but receive", nil},
		{"the Host is busy", []change{see(host, busy)}, path.HostCPU, "the Host's CPU is saturated: its 4 processors are busy for 97 %", nil},
		{"both are busy", []change{see(host, busy), see(r1, busy)}, path.HostCPU, "the Host's CPU", []string{"CPU of r1"}},
		{"a runner is busy", []change{see(r1, busy)}, path.RunnerCPU, "the CPU of r1 is saturated", nil},
		{"the Host's quota", []change{see(host, func(s *api.PerfSeen) { s.Throttled, s.Quota = 0.9, 0.5 })},
			path.HostCPU, "its control group allows 0.50 processors", nil},
		{"the Host is starved", []change{see(host, func(s *api.PerfSeen) {
			s.Run, s.Wait, s.Threads = 0.2, 0.9, []api.PerfThread{{TID: 1, Run: 0.18, Wait: 0.8}}
		})}, path.HostCPU, "waits for a processor for 82 %", nil},
		{"one machine is all machines", []change{oneKernel, see(host, busy), see(r1, busy)}, path.SharedCPU, "share are saturated", nil},
		{"one machine, but processors apart", []change{oneKernel, see(host, busy), see(host, func(s *api.PerfSeen) {
			s.Usable = 1
			for i := range s.Cores {
				s.Cores[i].Usable = i == 0
			}
		}), see(r1, func(s *api.PerfSeen) { s.Cores[0].Usable = false })},
			path.HostCPU, "the one of its 4 processors that the daemon may use is busy", nil},
		{"a full socket", []change{see(r1, func(s *api.PerfSeen) { s.UDPRcvbufErrors = 5000 })}, path.Loss, "r1 loses packets: its UDP sockets were full for 5000", nil},
		{"the data plane drops", []change{see(host, func(s *api.PerfSeen) { s.Engine.Drops = map[string]uint64{"device_full": 9000, "ecn": 1} })},
			path.Loss, "dropped 9000 (device_full)", nil},
		{"a device drops", []change{see(host, func(s *api.PerfSeen) { s.Tunnels[0].Drops = 9000 })}, path.Loss, "vxlan0 dropped 9000", nil},
		{"a few losses are none", []change{see(r1, func(s *api.PerfSeen) { s.UDPRcvbufErrors = 5 })}, path.Nothing, "", nil},
		{"latency", []change{func(e *path.Evidence) { e.OverlayRTT = 1300 }}, path.Latency, "adds 1.20 ms to a round trip, expected is less than 1.00 ms", nil},
		{"no evidence", []change{func(e *path.Evidence) { *e = path.Evidence{} }}, path.Nothing, "", nil},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			e := path.Evidence{Limits: []path.Test{hop(api.PerfUnderlay, 1000)}, Overlay: hop(api.PerfOverlay, 750), UnderlayRTT: 100, OverlayRTT: 150}
			for _, change := range c.changes {
				change(&e)
			}
			before := fmt.Sprintf("%+v", e)
			v := path.Judge(e)
			if v.Cause != c.want || !strings.Contains(v.Sentence, c.says) {
				t.Errorf("verdict %s: %q, want %s: %q", v.Cause, v.Sentence, c.want, c.says)
			}
			if len(v.Also) != len(c.also) {
				t.Errorf("also %q, want %q", v.Also, c.also)
			}
			for i := range min(len(v.Also), len(c.also)) {
				if !strings.Contains(v.Also[i], c.also[i]) {
					t.Errorf("also %q, want %q", v.Also[i], c.also[i])
				}
			}
			if len(v.Evidence) == 0 || strings.Contains(v.Sentence, "\n") {
				t.Errorf("evidence %q for %q", v.Evidence, v.Sentence)
			}
			if fmt.Sprintf("%+v", e) != before {
				t.Error("the evidence was changed")
			}
		})
	}
}

// Through the Host, the slower part of the underlay is the limit, not the direct way.
func TestGather(t *testing.T) {
	o := path.Options{From: "a", To: "b"}
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	r := &path.Report{From: "a", To: "b"}
	for _, p := range o.Plan() {
		p.Figures.Bits = 9e9
		switch {
		case p.Mode == api.PerfRoundTrip && p.Network == api.PerfOverlay:
			p.Figures = api.PerfFigures{P50: 90}
		case p.Mode == api.PerfRoundTrip:
			p.Figures = api.PerfFigures{P50: 40}
		case p.From == "":
			p.Figures.Bits = 2e9
		case p.Network == api.PerfOverlay:
			p.Figures.Bits = float64(p.Flows) * 0.25e9
		}
		r.Tests = append(r.Tests, p)
	}
	e := path.Gather(r)
	if l := e.Limit(); l.From != "" || l.To != "b" || len(e.Limits) != 2 {
		t.Errorf("limit %+v of %d", l, len(e.Limits))
	}
	if e.Overlay.Flows != 4 || e.Share() != 0.5 || e.LatencyOverhead() != 50 {
		t.Errorf("overlay with %d flows, share %v, latency %v", e.Overlay.Flows, e.Share(), e.LatencyOverhead())
	}
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		o    path.Options
		want []string
	}{
		{path.Options{From: "a"}, []string{"a>:underlay:1", "a>:overlay:1", "a>:underlay:4", "a>:overlay:4", "a>:underlay:rr", "a>:overlay:rr"}},
		{path.Options{From: "a", Streams: 1}, []string{"a>:underlay:1", "a>:overlay:1", "a>:underlay:rr", "a>:overlay:rr"}},
		{path.Options{From: "a", To: "b", Streams: 2}, []string{"a>:underlay:2", ">b:underlay:2", "a>b:underlay:1", "a>b:overlay:1",
			"a>b:underlay:2", "a>b:overlay:2", "a>b:underlay:rr", "a>b:overlay:rr"}},
	} {
		if err := c.o.Check(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range c.o.Plan() {
			how := fmt.Sprint(p.Flows)
			if p.Mode == api.PerfRoundTrip {
				how = "rr"
			}
			got = append(got, p.From+">"+p.To+":"+p.Network+":"+how)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("plan %v, want %v", got, c.want)
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []path.Options{{}, {From: "a", To: "a"}, {From: "a", Streams: -1}, {From: "a", Streams: 65}, {From: "a", Time: 1}, {From: "a", Time: 1 << 40}} {
		if err := o.Check(); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
