// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"
	"time"
)

func TestAgo(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for want, d := range map[string]time.Duration{
		"now": 999 * time.Millisecond, "1s ago": time.Second, "119s ago": 119 * time.Second,
		"2m ago": 2 * time.Minute, "119m ago": 2*time.Hour - 1, "2h ago": 2 * time.Hour,
		"47h ago": 48*time.Hour - 1, "2d ago": 48 * time.Hour,
	} {
		if got := ago(now.Add(-d), now); got != want {
			t.Errorf("ago(%s) = %q, want %q", d, got, want)
		}
	}
	if got := ago(now.Add(time.Hour), now); got != "now" {
		t.Errorf("a time ahead of ours: %q, want now", got)
	}
	if got := ago(time.Time{}, now); got != "never" {
		t.Errorf("the zero time: %q, want never", got)
	}
}

func TestSize(t *testing.T) {
	for want, n := range map[string]uint64{
		"0B": 0, "1023B": 1023, "1.00KiB": 1024, "1.50KiB": 1536, "15.0KiB": 15 << 10,
		"0.98MiB": 1000 << 10, "1.00GiB": 1 << 30, "16.0EiB": 1<<64 - 1,
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}

// A table's columns line up with and without colour.
func TestTableWidthIgnoresColour(t *testing.T) {
	rows := [][]cell{
		{{text: "gpu-1"}, {"active", green}, {text: "x"}},
		{{text: "a-longer-name"}, {"inactive", yellow}, {text: ""}},
	}
	print := func(colour bool) string {
		var b strings.Builder
		p := &printer{w: &b, colour: colour}
		p.table([]string{"RUNNER", "STATE", "LAST"}, rows)
		return b.String()
	}
	want := "RUNNER         STATE     LAST\ngpu-1          active    x\na-longer-name  inactive\n"
	if got := print(false); got != want {
		t.Errorf("plain:\n%s\nwant:\n%s", got, want)
	}
	stripped := print(true)
	for _, p := range []paint{bold, faint, red, green, yellow, "0"} {
		stripped = strings.ReplaceAll(stripped, "\x1b["+string(p)+"m", "")
	}
	var trimmed []string
	for line := range strings.Lines(stripped) {
		trimmed = append(trimmed, strings.TrimRight(line, " \n")+"\n")
	}
	if got := strings.Join(trimmed, ""); got != want {
		t.Errorf("in colour, colour taken away:\n%s\nwant:\n%s", got, want)
	}
}

func TestSeconds(t *testing.T) {
	for want, s := range map[string]float64{"0s": 0, "1s": 0.001, "59s": 59, "1m": 60, "1m1s": 60.5, "5m": 300, "10m": 600, "1h": 3600, "1h5m": 3900, "24h": 86400} {
		if got := seconds(s); got != want {
			t.Errorf("seconds(%v) = %q, want %q", s, got, want)
		}
	}
}
