// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// seeds are files that have been, or could be, trouble.
var seeds = []string{
	"", allHost, "\ufeff[host]\r\nbind = \"[::]:1\"\r\n", "[host]\nbind = \"[fe80::1%e\\u0000]:1\"",
	"overlay = { subnet = '10.128.0.0/12/6/14', vxlan_id = 16777152 }", "[[overlay]]\nmtu=1\n[[overlay]]",
	"a = [[[[[[{b=[{c=1}]}]]]]]]", "\"\"=1\n[overlay.\"\"]\n\"\"=2", "engine.offloads = {tso=1,tso=2}", "x=1979-05-27T07:32:00Z",
	"[host]\nlog_level = \"\"\"\\\n  info\"\"\"", "[host]\nstate_dir = '/a\U000e0001b'", "a=0x\nb=1e9\nc=+nan", "a.b=1\na.c=2\n[a.d]",
	"[runner]\nhost='h'", "runner.host='[fe80::1%25]'", "[runner]\nhost=\"::8000\"\n[docker]\nsocket='tcp://[::1]:1'",
	"[runner]\nhost=\"a://b://c\"", "a=\"\\xff\\e\"", "heartbeat.interval='100ms1ns'",
}

// checkError asserts what every refusal of a file owes.
func checkError(t *testing.T, data []byte, err error) {
	var e *Error
	if !errors.As(err, &e) || len(e.Problems) == 0 {
		t.Fatalf("not an *Error: %#v", err)
	}
	last := 1 + strings.Count(string(data), "\n")
	for _, p := range e.Problems {
		if p.Msg == "" || p.Line < 0 || p.Line > last {
			t.Errorf("problem %#v in a file of %d lines", p, last)
		}
		if s := p.String(); strings.Contains(s, "\n") || !utf8.ValidString(s) {
			t.Errorf("prints %q", s)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Add(HostSample())
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ParseHost("host.toml", data)
		if err != nil {
			checkError(t, data, err)
			return
		}
		if err := h.Validate(); err != nil {
			t.Fatalf("accepted, but not valid: %v", err)
		}
		if p := h.Overlay.Subnet; !p.IsValid() || int(h.Overlay.VXLANID)+p.MaxRunners() > 1<<24-1 ||
			!h.Host.Bind.IsValid() || h.Overlay.VXLANPort == 0 || h.Heartbeat.TimeoutFactor < 2 {
			t.Fatalf("accepted nonsense:\n%s", h.TOML())
		}
		again, err := ParseHost("again.toml", h.TOML())
		if err != nil || !again.Equal(h) {
			t.Fatalf("does not come back: %v\n%s", err, h.TOML())
		}
	})
}

func FuzzParseRunner(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Add(RunnerSample())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRunner("runner.toml", data)
		if err != nil {
			checkError(t, data, err)
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("accepted, but not valid: %v", err)
		}
		if r.Runner.Host == "" || r.Overlay.NetworkName == "" {
			t.Fatalf("accepted nonsense:\n%s", r.TOML())
		}
		again, err := ParseRunner("again.toml", r.TOML())
		if err != nil || !again.Equal(r) {
			t.Fatalf("does not come back: %v\n%s", err, r.TOML())
		}
	})
}

func FuzzParsePlan(f *testing.F) {
	for _, s := range []string{
		"", "10.0.0.0/8/8/16", "10.128.0.0/12/6/14", "10.0.0.0/8", "10.0.0.1/8/8/16", "fd00::/8/8/16", "255.255.254.0/23/1/8",
		"0.0.0.0/1/1/30", "10.0.0.0/8/8/16/", "10.0.0.0/008/8/16", "10.0.0.0/999/999/999", "///", "127.0.0.0/8/8/16",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePlan(s)
		if err != nil {
			checkPlanError(t, s, err)
			if p != (Plan{}) {
				t.Fatalf("an error and a plan: %s", p)
			}
			return
		}
		if p.String() != s || !p.IsValid() {
			t.Fatalf("ParsePlan(%q) = %s", s, p)
		}
		n := p.MaxRunners()
		for _, id := range []int{1, (n + 1) / 2, n} {
			if got, ok := p.RunnerOf(p.HostOn(id)); got != id || !ok || !p.Overlay().Contains(p.Gateway(id)) {
				t.Fatalf("%s: runner %d is taken for %d", p, id, got)
			}
		}
		if _, ok := p.RunnerOf(p.HostAddr()); ok {
			t.Fatalf("%s: the Host is taken for a runner", p)
		}
	})
}
