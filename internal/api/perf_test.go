// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const (
	goodStep   = `{"from":"Runner-1","to":"","network":"overlay","mode":"tcp","streams":4,"seconds":2}`
	goodPoll   = `{"machine_id":"` + machineID + `","runner_id":1}`
	goodReport = `{"machine_id":"` + machineID + `","runner_id":1,"task_id":7,"state":"done",` +
		`"figures":{"seconds":2,"bits_per_second":1e9,"retransmits":-1,"mss":1448},` +
		`"seen":{"runner":"","boot_id":"x","seconds":2,"cpus":2,"usable_cpus":2,"busy":0.5,"cores":[{"cpu":0,"busy":1}],"threads":[{"tid":1,"run":1}],` +
		`"underlay":[{"name":"eth0","mtu":1500,"off":["tso"],"qdisc":"tbf"}],"tunnels":[],"engine":{"drops":{"ecn":1}},"missing":["m"]}}`
)

func TestDecodePerfStep(t *testing.T) {
	q, err := DecodePerfStep(strings.NewReader(goodStep))
	if err != nil || q.From != "runner-1" || q.To != "" || q.Streams != 4 {
		t.Fatalf("%+v, %v", q, err)
	}
	refuses(t, goodStep, func(s string) error { _, err := DecodePerfStep(strings.NewReader(s)); return err }, [][3]string{
		{"from", `"Runner-1"`, `"a b"`},
		{"to", `"to":""`, `"to":"runner-1"`},
		{"network", `"overlay"`, `"both"`},
		{"network", `"overlay"`, `"\u001b"`},
		{"mode", `"tcp"`, `"flood"`},
		{"streams", `:4`, `:0`},
		{"streams", `:4`, `:65`},
		{"seconds", `:2}`, `:0.1}`},
		{"seconds", `:2}`, `:61}`},
		{"seconds", `:2}`, `:-1}`},
		{"reverse", `"tcp"`, `"rr","reverse":true`},
	})
}

func TestDecodePerfPollAndReport(t *testing.T) {
	if p, err := DecodePerfPoll(strings.NewReader(goodPoll)); err != nil || p.RunnerID != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	refuses(t, goodPoll, func(s string) error { _, err := DecodePerfPoll(strings.NewReader(s)); return err }, [][3]string{
		{"machine_id", machineID, "x"},
		{"runner_id", ":1", ":0"},
	})
	r, err := DecodePerfReport(strings.NewReader(goodReport))
	if err != nil || r.Figures.Bits != 1e9 || r.Seen.Underlay[0].Off[0] != "tso" {
		t.Fatalf("%+v, %v", r, err)
	}
	many := func(n int, one string) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	refuses(t, goodReport, func(s string) error { _, err := DecodePerfReport(strings.NewReader(s)); return err }, [][3]string{
		{"machine_id", machineID, "x"},
		{"state", `"done"`, `"perhaps"`},
		{"port", `"done"`, `"ready"`},
		{"error", `"done"`, `"done","error":"\u001b[2J"`},
		{"figures", `:1e9`, `:-1`},
		{"figures", `:1448`, `:1448000`},
		{"seen.runner", `"runner":""`, `"runner":"a b"`},
		{"seen.boot_id", `"x"`, `"\n"`},
		{"seen.usable_cpus", `"usable_cpus":2`, `"usable_cpus":3`},
		{"seen", `"busy":0.5`, `"busy":-0.5`},
		{"seen", `{"cpu":0,"busy":1}`, many(MaxPerfCores+1, `{"cpu":0}`)},
		{"seen.cores", `"busy":1`, `"busy":-1`},
		{"seen.threads", `"run":1`, `"run":-1`},
		{"seen.underlay", `"eth0"`, `"eth\u0000"`},
		{"seen.underlay.off", `"tso"`, many(maxPerfOff+1, `"x"`)},
		{"seen.underlay.mtu", `1500`, `-1`},
		{"seen.engine.drops", `"ecn"`, `"\u0007"`},
		{"seen.missing", `"m"`, `"\u0007"`},
	})
}

// refuses replaces a part of a good body and wants the field named.
func refuses(t *testing.T, good string, decode func(string) error, cases [][3]string) {
	t.Helper()
	for _, c := range cases {
		body := strings.Replace(good, c[1], c[2], 1)
		if body == good {
			t.Fatalf("%q is not in the body", c[1])
		}
		field, _ := errors.AsType[*FieldError](decode(body))
		if field == nil || field.Field != c[0] || strings.ContainsFunc(field.Error(), unicode.IsControl) {
			t.Errorf("%s -> %.40s: error %v does not name %s", c[1], c[2], field, c[0])
		}
	}
}

func TestPerfTaskCheck(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	serve := PerfTask{Kind: PerfServe, Mode: PerfTCP, Seconds: 1, Listen: a, Allow: b, Peers: []netip.Addr{b}}
	measure := PerfTask{Kind: PerfMeasure, Mode: PerfRoundTrip, Seconds: 1, Streams: 1, Local: b, Server: netip.AddrPortFrom(a, 1)}
	for _, good := range []PerfTask{serve, measure, {Kind: PerfCancel}} {
		if err := good.Check(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	bad := func(t PerfTask, change func(*PerfTask)) PerfTask { change(&t); return t }
	for _, task := range []PerfTask{
		{},
		bad(serve, func(t *PerfTask) { t.Listen = netip.IPv4Unspecified() }), // open to the world
		bad(serve, func(t *PerfTask) { t.Allow = netip.Addr{} }),
		bad(serve, func(t *PerfTask) { t.Seconds = 3600 }),
		bad(serve, func(t *PerfTask) { t.Seconds = math.NaN() }),
		bad(serve, func(t *PerfTask) { t.Peers = slices.Repeat(t.Peers, MaxPerfDevices+1) }),
		bad(serve, func(t *PerfTask) { t.Peers = []netip.Addr{{}} }),
		bad(serve, func(t *PerfTask) { t.Tunnels = []string{"\x1b"} }),
		bad(measure, func(t *PerfTask) { t.Server = netip.AddrPortFrom(netip.MustParseAddr("224.0.0.1"), 1) }),
		bad(measure, func(t *PerfTask) { t.Server = netip.AddrPortFrom(netip.MustParseAddr("255.255.255.255"), 1) }),
		bad(measure, func(t *PerfTask) { t.Server = netip.AddrPortFrom(t.Server.Addr(), 0) }),
		bad(measure, func(t *PerfTask) { t.Local = netip.Addr{} }),
		bad(measure, func(t *PerfTask) { t.Streams = 1000 }),
	} {
		if err := task.Check(); err == nil {
			t.Errorf("%+v was accepted", task)
		}
	}
}

// The longest report that an end makes fits into a body.
func TestPerfReportFits(t *testing.T) {
	long := strings.Repeat("ä", maxPerfName/2)
	d := PerfDevice{Name: long, MTU: 65535, Off: slices.Repeat([]string{"tx-udp-segmentation"}, 7), Qdisc: long, Rate: math.MaxUint64, Drops: math.MaxUint64}
	s := &PerfSeen{
		BootID: long, CPUs: 1 << 16, Underlay: slices.Repeat([]PerfDevice{d}, MaxPerfDevices), Tunnels: slices.Repeat([]PerfDevice{d}, MaxPerfDevices),
		Cores:   slices.Repeat([]PerfCore{{65535, true, 1.0 / 3, 1.0 / 3, 1.0 / 3}}, MaxPerfCores),
		Threads: slices.Repeat([]PerfThread{{1 << 22, 1.0 / 3, 1.0 / 3}}, MaxPerfThreads),
		Missing: slices.Repeat([]string{FitText(strings.Repeat("x", 4096))}, MaxPerfMissing),
	}
	body, err := json.Marshal(PerfReport{MachineID: machineID, RunnerID: 1, State: PerfDone, Error: FitText(strings.Repeat("\x1b", 4096)), Seen: s})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := DecodePerfReport(strings.NewReader(string(body))); err != nil {
		t.Errorf("a report of %d bytes: %v", len(body), err)
	}
}

func TestCheckPerfToken(t *testing.T) {
	for token, good := range map[string]bool{"": false, "ABC234": true, "abc": false, "A/B": false, strings.Repeat("A", 65): false} {
		if err := CheckPerfToken(token); (err == nil) != good {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func FuzzPerfStepBody(f *testing.F) {
	f.Add([]byte(goodStep))
	f.Add([]byte(`{"from":"a","to":"A","network":"underlay","mode":"rr","streams":1,"seconds":1e-320}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := DecodePerfStep(strings.NewReader(string(body)))
		if err != nil {
			return
		}
		if q.From == q.To || !(q.Seconds >= MinPerfSeconds && q.Seconds <= MaxPerfSeconds) || q.Streams < 1 || q.Streams > MaxPerfStreams {
			t.Fatalf("%+v was accepted", q)
		}
		again, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := DecodePerfStep(strings.NewReader(string(again))); err != nil || r != q {
			t.Fatalf("%s came back as %+v, %v", again, r, err)
		}
	})
}

func FuzzPerfReportBody(f *testing.F) {
	f.Add([]byte(goodReport))
	f.Add([]byte(goodPoll))
	f.Add([]byte(`{"machine_id":"` + machineID + `","runner_id":1,"state":"ready","port":5201}`))
	f.Add([]byte(`{"seen":{"cores":[{"cpu":-9223372036854775808}]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := DecodePerfReport(strings.NewReader(string(body)))
		if err != nil {
			return
		}
		if strings.ContainsFunc(r.Error, unicode.IsControl) {
			t.Fatalf("error %q", r.Error)
		}
		if s := r.Seen; s != nil {
			for _, text := range append([]string{s.Runner, s.BootID}, s.Missing...) {
				if strings.ContainsFunc(text, unicode.IsControl) {
					t.Fatalf("text %q", text)
				}
			}
		}
		if _, err := json.Marshal(r); err != nil {
			t.Fatal(err)
		}
	})
}
