// SPDX-License-Identifier: Apache-2.0

package end

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kohaku/engine"
	"kohaku/internal/api"
	"kohaku/internal/lab"
	"kohaku/perf"
)

// TestMain runs in a lab: the loopback there is nobody else's.
func TestMain(m *testing.M) {
	if err := lab.Enter(lab.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

var (
	one   = netip.MustParseAddr("127.0.0.1")
	other = netip.MustParseAddr("127.0.0.2")
)

// counting is an engine that has sent more each time that it is asked.
func counting() func() engine.Stats {
	var mu sync.Mutex
	var n uint64
	return func() engine.Stats {
		mu.Lock()
		defer mu.Unlock()
		n += 10
		return engine.Stats{Workers: 3, Stages: engine.Stages{Sent: n}}
	}
}

// do has both ends of a test done on this machine, and gives their last reports.
func do(t *testing.T, mode string, reverse bool) (client, server api.PerfReport) {
	t.Helper()
	ready, done := make(chan uint16, 1), make(chan api.PerfReport, 1)
	serve := api.PerfTask{ID: 1, Kind: api.PerfServe, Mode: mode, Seconds: 0.3, Listen: one, Allow: other, Peers: []netip.Addr{other}, Tunnels: []string{"lo"}}
	go Meter{}.Do(t.Context(), serve, counting(), func(r api.PerfReport) {
		if r.State == api.PerfReady {
			ready <- r.Port
			return
		}
		done <- r
	})
	var at netip.AddrPort
	select {
	case port := <-ready:
		at = netip.AddrPortFrom(one, port)
	case server = <-done:
		t.Fatalf("the server: %+v", server)
	}
	measure := api.PerfTask{
		ID: 2, Kind: api.PerfMeasure, Mode: mode, Seconds: 0.3, Streams: 2, Reverse: reverse, Local: other, Server: at,
		Peers: []netip.Addr{one}, Tunnels: []string{"nowhere"},
	}
	Meter{}.Do(t.Context(), measure, counting(), func(r api.PerfReport) { client = r })
	return client, <-done
}

func TestThroughput(t *testing.T) {
	for _, reverse := range []bool{false, true} {
		client, server := do(t, api.PerfTCP, reverse)
		if client.Error != "" || server.Error != "" || client.TaskID != 2 || server.TaskID != 1 {
			t.Fatalf("client %+v, server %+v", client, server)
		}
		if f := client.Figures; f.Bits <= 0 || f.Seconds <= 0 || f.MSS <= 0 || server.Figures != nil {
			t.Errorf("figures %+v, at the server %+v", client.Figures, server.Figures)
		}
		for _, s := range []*api.PerfSeen{client.Seen, server.Seen} {
			if s.BootID == "" || s.CPUs == 0 || s.Usable == 0 || len(s.Cores) == 0 || s.Run <= 0 || len(s.Threads) == 0 ||
				len(s.Underlay) != 1 || s.Underlay[0].Name != "lo" || s.Engine.Sent != 10 || s.Engine.Workers != 3 {
				t.Errorf("seen %+v", s)
			}
		}
		if len(client.Seen.Missing) != 1 || !strings.Contains(client.Seen.Missing[0], "nowhere") || len(client.Seen.Tunnels) != 0 {
			t.Errorf("missing %q, tunnels %+v", client.Seen.Missing, client.Seen.Tunnels)
		}
	}
}

func TestRoundTrips(t *testing.T) {
	client, server := do(t, api.PerfRoundTrip, false)
	if client.Error != "" || server.Error != "" {
		t.Fatalf("client %+v, server %+v", client, server)
	}
	if f := client.Figures; f.P50 <= 0 || f.P99 < f.P50 || f.PerSecond <= 0 || f.Bits != 0 {
		t.Errorf("figures %+v", f)
	}
}

// A server answers nobody but the one client, and its port is closed afterwards.
func TestServerIsForOne(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ready, done := make(chan uint16, 1), make(chan api.PerfReport, 1)
	task := api.PerfTask{Kind: api.PerfServe, Mode: api.PerfTCP, Seconds: 0.3, Listen: one, Allow: other}
	go Meter{}.Do(ctx, task, counting(), func(r api.PerfReport) {
		if r.State == api.PerfReady {
			ready <- r.Port
			return
		}
		done <- r
	})
	at := netip.AddrPortFrom(one, <-ready)
	if _, err := perf.RunClient(t.Context(), perf.ClientConfig{Server: at.String(), Local: one, Duration: time.Second}); err == nil {
		t.Error("another client was answered")
	}
	cancel()
	if r := <-done; !strings.Contains(r.Error, "127.0.0.2 did not come") || r.Seen != nil {
		t.Errorf("report %+v", r)
	}
	if c, err := net.Dial("tcp", at.String()); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
}

// The usual port is taken: another one does.
func TestServerFindsAPort(t *testing.T) {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(one, api.PerfPort).String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, server := do(t, api.PerfTCP, false); client.Error != "" || server.Error != "" {
		t.Errorf("client %+v, server %+v", client, server)
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		task api.PerfTask
		says string
	}{
		{api.PerfTask{Kind: "dance"}, `"dance"`},
		{api.PerfTask{Kind: api.PerfCancel}, "nothing to do"},
		{api.PerfTask{Kind: api.PerfServe, Mode: api.PerfTCP, Seconds: 1, Listen: netip.MustParseAddr("192.0.2.77"), Allow: one}, "cannot assign"},
		{api.PerfTask{Kind: api.PerfMeasure, Mode: api.PerfTCP, Seconds: 1, Streams: 1, Local: one, Server: netip.AddrPortFrom(one, 9)}, "refused"},
	} {
		var got []api.PerfReport
		Meter{}.Do(t.Context(), c.task, counting(), func(r api.PerfReport) { got = append(got, r) })
		if len(got) != 1 || got[0].State != api.PerfDone || !strings.Contains(got[0].Error, c.says) {
			t.Errorf("%+v: reports %+v, want %q", c.task, got, c.says)
		}
	}
}
