// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"

	"kohaku/conf"
	"kohaku/internal/api"
)

var update = flag.Bool("update", false, "write the golden files")

var (
	start = time.Date(2026, 5, 4, 14, 2, 10, 0, time.UTC)
	plan  = conf.MustParsePlan("10.0.0.0/8/8/16")
)

// cluster is a status with n runners, after so many seconds of traffic.
func cluster(n int, seconds uint64) api.Status {
	s := api.Status{
		Enabled: true, SubnetConfig: plan.String(), HostIP: plan.HostAddr(), Problems: []string{},
		Stats: api.Stats{TotalAllocations: n, MaxRunners: 255, AvailableIDs: 255 - n},
	}
	now := start.Add(time.Duration(seconds) * time.Second)
	for i := 1; i <= n; i++ {
		a := api.Allocation{
			RunnerName: fmt.Sprintf("gpu-node-%02d", i), RunnerID: i, Subnet: plan.Subnet(i), IsActive: i%7 != 3,
			PhysicalIP: netip.AddrFrom4([4]byte{192, 168, 88, byte(i)}), VXLANDevice: conf.HostDevice(i), LastUsed: now.Add(-time.Second),
		}
		speed := uint64(i) * 12_345_678
		a.Counters = &api.Counters{
			RxFrames: seconds * speed / 1400, RxBytes: seconds * speed, TxFrames: seconds * speed / 14000, TxBytes: seconds * speed / 10,
			Drops: map[string]uint64{"socket_full": seconds * uint64(i%4), "wrong_peer": seconds * uint64(i%2)},
		}
		if a.IsActive {
			s.Stats.ActiveAllocations++
		} else {
			s.Stats.InactiveAllocations++
			a.LastUsed = now.Add(-5 * time.Minute)
			s.Problems = append(s.Problems, "runner "+a.RunnerName+" reports: nothing good, at some length, so that the line does not fit into 80 columns")
		}
		s.Allocations = append(s.Allocations, a)
	}
	return s
}

// shown is a model after two answers, a second apart.
func shown(n, width, height int) model {
	m := newModel(context.Background(), nil, time.Second)
	m = send(m, tea.WindowSizeMsg{Width: width, Height: height})
	m = send(m, answer{status: cluster(n, 0), at: start})
	return send(m, answer{status: cluster(n, 1), at: start.Add(time.Second)})
}

func send(m model, msgs ...tea.Msg) model {
	for _, msg := range msgs {
		next, _ := m.Update(msg)
		m = next.(model)
	}
	return m
}

func press(m model, keys ...string) model {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		switch k {
		case "down":
			msg = tea.KeyPressMsg{Code: tea.KeyDown}
		case "up":
			msg = tea.KeyPressMsg{Code: tea.KeyUp}
		case "pgdown":
			msg = tea.KeyPressMsg{Code: tea.KeyPgDown}
		case "end":
			msg = tea.KeyPressMsg{Code: tea.KeyEnd}
		}
		m = send(m, msg)
	}
	return m
}

func screen(m model) string { return ansi.Strip(m.View().Content) }

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it anew):\n%s", name, diff)
	}
}

func TestScreens(t *testing.T) {
	down := shown(3, 80, 24)
	down = send(down, answer{err: errors.New("dial: connection refused"), at: start.Add(8 * time.Second)})
	never := send(newModel(context.Background(), nil, time.Second), answer{err: errors.New("dial: connection refused"), at: start})
	off := send(newModel(context.Background(), nil, time.Second), answer{status: api.Status{}, at: start})
	first := send(newModel(context.Background(), nil, time.Second), answer{status: cluster(2, 9), at: start})
	for name, m := range map[string]model{
		"80x24.txt":        shown(5, 80, 24),
		"140x50.txt":       shown(40, 140, 50),
		"80x24-255.txt":    press(shown(255, 80, 24), "d", "pgdown", "down"),
		"80x24-down.txt":   down,
		"80x24-never.txt":  never,
		"80x24-off.txt":    off,
		"80x24-first.txt":  first,
		"40x8.txt":         shown(5, 40, 8),
		"80x24-asking.txt": newModel(context.Background(), nil, time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			got := screen(m)
			golden(t, name, got+"\n")
			lines := strings.Split(got, "\n")
			if len(lines) != m.height {
				t.Errorf("%d lines on a screen of %d", len(lines), m.height)
			}
			for _, l := range lines {
				if w := ansi.StringWidth(l); w > m.width {
					t.Errorf("%d columns on a screen of %d: %q", w, m.width, l)
				}
			}
		})
	}
}

func TestSorting(t *testing.T) {
	top := func(m model) string { return strings.Fields(strings.Split(screen(m), "\n")[4])[0] }
	for keys, want := range map[string]string{
		"i": "gpu-node-20", // it is sorted by that already: backwards
		"n": "gpu-node-01", "n n": "gpu-node-20", "n n n": "gpu-node-01",
		"r": "gpu-node-20", "r r": "gpu-node-01", "t": "gpu-node-20",
		"d": "gpu-node-03", // 3 + 1 drops, and the lowest id of those
		"s": "gpu-node-03", "s s": "gpu-node-01",
		"a": "gpu-node-03", // not seen for the longest time
	} {
		if got := top(press(shown(20, 80, 40), strings.Fields(keys)...)); got != want {
			t.Errorf("after %q the first is %s, want %s", keys, got, want)
		}
	}
}

func TestScrolling(t *testing.T) {
	m := shown(255, 80, 24)
	room := m.room()
	for _, step := range []struct {
		key  string
		want int
	}{
		{"up", 0}, {"down", 1}, {"pgdown", 1 + room}, {"end", 255 - room}, {"down", 255 - room}, {"g", 0}, {"G", 255 - room},
	} {
		if m = press(m, step.key); m.offset != step.want {
			t.Errorf("after %s the offset is %d, want %d", step.key, m.offset, step.want)
		}
	}
	// Runners go away, and the screen grows: there is no emptiness to look at.
	m = send(m, answer{status: cluster(3, 2), at: start.Add(2 * time.Second)})
	if m.offset != 0 {
		t.Errorf("offset %d of 3 lines", m.offset)
	}
	m = press(send(m, answer{status: cluster(255, 3), at: start.Add(3 * time.Second)}), "G")
	m = send(m, tea.WindowSizeMsg{Width: 80, Height: 300})
	if m.offset != 0 {
		t.Errorf("offset %d where all fit", m.offset)
	}
}

func TestQuit(t *testing.T) {
	for _, key := range []tea.KeyPressMsg{{Text: "q", Code: 'q'}, {Code: 'c', Mod: tea.ModCtrl}, {Code: tea.KeyEscape}} {
		_, cmd := shown(1, 80, 24).Update(key)
		if cmd == nil {
			t.Fatalf("%s does not quit", key)
		}
		if _, ok := cmd().(tea.QuitMsg); !ok {
			t.Errorf("%s does not quit", key)
		}
	}
}

// A program that ends leaves the terminal as it was: the cursor shows, and the
// screen from before is back.
func TestTerminalIsRestored(t *testing.T) {
	var out bytes.Buffer
	fetch := func(context.Context) (api.Status, error) { return cluster(2, 1), nil }
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := Terminal(ctx, strings.NewReader("q"), &out, fetch, time.Second); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	in, leave := strings.Index(text, ansi.SetModeAltScreenSaveCursor), strings.LastIndex(text, ansi.ResetModeAltScreenSaveCursor)
	if in < 0 || leave < in || strings.LastIndex(text, ansi.ResetModeTextCursorEnable) > strings.LastIndex(text, ansi.SetModeTextCursorEnable) {
		t.Errorf("the terminal is left as %q", text)
	}
}

func TestRates(t *testing.T) {
	was := &api.Counters{RxFrames: 100, RxBytes: 1000, TxFrames: 10, TxBytes: 500, Drops: map[string]uint64{"a": 5}}
	cases := map[string]struct {
		was, is *api.Counters
		passed  time.Duration
		want    Rate
		ok      bool
	}{
		"two seconds": {was, &api.Counters{RxFrames: 300, RxBytes: 3000, TxFrames: 10, TxBytes: 900, Drops: map[string]uint64{"a": 9, "b": 2}}, 2 * time.Second,
			Rate{InFrames: 100, InBits: 8000, OutBits: 1600, Drops: 3}, true},
		"set back by a new start": {was, &api.Counters{RxFrames: 50, RxBytes: 600, TxFrames: 2, TxBytes: 80, Drops: map[string]uint64{"a": 1}}, time.Second,
			Rate{InFrames: 50, InBits: 4800, OutFrames: 2, OutBits: 640, Drops: 1}, true},
		"no drops any more": {was, &api.Counters{RxFrames: 100, RxBytes: 1000, TxFrames: 10, TxBytes: 500}, time.Second, Rate{}, true},
		"the first":         {nil, was, time.Second, Rate{}, false},
		"no tunnel":         {was, nil, time.Second, Rate{}, false},
		"no time":           {was, was, 0, Rate{}, false},
	}
	for name, c := range cases {
		if got, ok := between(c.was, c.is, c.passed); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v, %v, want %+v, %v", name, got, ok, c.want, c.ok)
		}
	}
}

func TestShort(t *testing.T) {
	for want, f := range map[string]float64{
		"0": 0.01, "0.5": 0.5, "9.9": 9.9, "10": 9.96, "42": 42.4, "999": 999.4, "1.00k": 999.6, "12.3k": 12345, "940M": 9.4e8, "1.23G": 1.2345e9, "100G": 99.96e9,
	} {
		if got := short(f); got != want {
			t.Errorf("short(%v) = %q, want %q", f, got, want)
		}
	}
}

func TestPlain(t *testing.T) {
	var out bytes.Buffer
	var s series
	for i, status := range []api.Status{cluster(3, 0), cluster(3, 2), {}} {
		if err := plainSet(&out, &s, status, nil, start.Add(time.Duration(2*i)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if err := plainSet(&out, &s, api.Status{}, errors.New("connection\nrefused"), start); err != nil {
		t.Fatal(err)
	}
	golden(t, "plain.txt", out.String())

	full := errors.New("disk full")
	fetch := func(context.Context) (api.Status, error) { return cluster(1, 1), nil }
	if err := Plain(t.Context(), failing{full}, fetch, time.Hour); !errors.Is(err, full) {
		t.Errorf("an output that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	fetch = func(context.Context) (api.Status, error) {
		if n++; n == 3 {
			cancel()
		}
		return cluster(1, 1), nil
	}
	if err := Plain(ctx, &out, fetch, time.Millisecond); err != nil || n != 3 {
		t.Errorf("ended after %d answers: %v", n, err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
