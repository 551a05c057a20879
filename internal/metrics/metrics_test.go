// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/api"
	"kohaku/internal/dataplane"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// full is a snapshot with n tunnels, and nothing left out.
func full(n int) Snapshot {
	drops, repairs := uint64(7), uint64(2)
	s := Snapshot{
		Engine: &engine.Stats{
			Tunnels: n, Workers: 2, UDPGSO: true, Drops: map[string]uint64{engine.DropUnknownVNI.String(): 3},
			Stages: engine.Stages{Reads: 10, FramesRead: 40, Sends: 20, Sent: 600, SendsBlocked: 4, BlockedTime: 1_500_000_000,
				Receives: 30, Messages: 90, Received: 900, Writes: 50, Written: 75, Waits: 8},
		},
		SocketDrops: &drops, FirewallRepairs: &repairs, Problems: 1,
		Host: &Host{AvailableIDs: 255 - n, MaxRunners: 255},
	}
	for i := range n {
		name := fmt.Sprintf("runner-%d", i)
		s.Tunnels = append(s.Tunnels, Tunnel{dataplane.Stats{VNI: encap.VNI(101 + i), Device: fmt.Sprintf("vxkr%d", i), Counters: api.Counters{
			RxFrames: 1, RxBytes: 2, TxFrames: 3, TxBytes: 4, Drops: map[string]uint64{engine.DropSpoofedSource.String(): 5},
		}}, name})
		s.Host.Members = append(s.Host.Members, Member{Name: name, Active: i%2 == 0, Age: time.Second})
	}
	return s
}

func hostSet(snapshot func() Snapshot) *Set {
	s := New("host", Version{Version: "1.2.3", Go: "go9"})
	s.Collect(snapshot)
	return s
}

func runnerSet() *Set {
	s := New("runner", Version{Version: "1.2.3"})
	s.Collect(func() Snapshot {
		f := full(1)
		f.Host, f.Runner = nil, &Runner{Joined: true, Age: 90 * time.Millisecond}
		return f
	})
	s.HostCall("heartbeat", 200, 3*time.Millisecond)
	s.HostCall("register", 0, time.Second)
	s.HostCall("register", 777, time.Second)
	return s
}

// promlint knows the conventions for names, units and help texts.
func TestConventions(t *testing.T) {
	host := hostSet(func() Snapshot { return full(2) })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /x", func(http.ResponseWriter, *http.Request) {})
	host.API(mux, mux).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/x", nil))
	for _, s := range []*Set{host, runnerSet()} {
		problems, err := testutil.GatherAndLint(s.registry)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if strings.HasPrefix(p.Metric, namespace) { // the others are the library's
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
	}
}

func scrape(t *testing.T, s *Set) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func TestHostScrape(t *testing.T) {
	asked := 0
	s := hostSet(func() Snapshot { asked++; return full(3) })
	if changed, err := s.Changed("mtu")(true, nil); !changed || err != nil {
		t.Error("Changed does not give back what it got")
	}
	s.Changed("mtu")(false, nil)
	s.Changed("alias")(true, errors.New("refused"))
	text := scrape(t, s)
	for _, want := range []string{
		`kohaku_build_info{daemon="host",goversion="go9",version="1.2.3"} 1`,
		`kohaku_tunnel_receive_frames_total{device="vxkr0",runner="runner-0"} 1`,
		`kohaku_tunnel_receive_bytes_total{device="vxkr0",runner="runner-0"} 2`,
		`kohaku_tunnel_transmit_frames_total{device="vxkr2",runner="runner-2"} 3`,
		`kohaku_tunnel_transmit_bytes_total{device="vxkr2",runner="runner-2"} 4`,
		`kohaku_tunnel_dropped_frames_total{device="vxkr1",reason="spoofed_source",runner="runner-1"} 5`,
		`kohaku_tunnel_dropped_frames_total{device="vxkr1",reason="socket_full",runner="runner-1"} 0`,
		`kohaku_tunnel_up{device="vxkr0",runner="runner-0"} 1`,
		`kohaku_engine_dropped_datagrams_total{reason="unknown_vni"} 3`,
		`kohaku_engine_read_frames_sum 40`, `kohaku_engine_read_frames_count 10`,
		`kohaku_engine_send_datagrams_sum 600`, `kohaku_engine_send_datagrams_count 20`,
		`kohaku_engine_receive_messages_sum 90`, `kohaku_engine_receive_segments_sum 900`, `kohaku_engine_receive_segments_count 90`,
		`kohaku_engine_write_frames_sum 75`, `kohaku_engine_write_frames_count 50`,
		`kohaku_engine_send_blocked_total 4`, `kohaku_engine_send_blocked_seconds_total 1.5`,
		`kohaku_engine_socket_dropped_datagrams_total 7`,
		`kohaku_engine_tunnels 3`,
		`kohaku_engine_offload_enabled{offload="udp_gro"} 0`,
		`kohaku_host_allocations{state="active"} 2`, `kohaku_host_allocations{state="inactive"} 1`,
		`kohaku_host_runner_active{runner="runner-1"} 0`, `kohaku_host_runner_heartbeat_age_seconds{runner="runner-1"} 1`,
		`kohaku_host_available_ids 252`,
		`kohaku_firewall_repairs_total 2`, `kohaku_problems 1`,
		`kohaku_reconcile_actions_total{action="mtu"} 1`, `kohaku_reconcile_actions_total{action="alias"} 0`,
		`go_goroutines `, `process_resident_memory_bytes `,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
	if asked != 1 {
		t.Errorf("one scrape took %d snapshots", asked)
	}
	// Every reason that the engine has.
	for _, d := range engine.Drops() {
		if !strings.Contains(text, `reason="`+d.String()+`"`) {
			t.Errorf("no series for the reason %s", d)
		}
	}
}

func TestRunnerScrape(t *testing.T) {
	text := scrape(t, runnerSet())
	for _, want := range []string{
		`kohaku_runner_joined 1`, `kohaku_runner_host_answer_age_seconds 0.09`,
		`kohaku_runner_host_request_duration_seconds_count{call="heartbeat",code="200"} 1`,
		`kohaku_runner_host_request_duration_seconds_count{call="register",code="none"} 1`,
		`kohaku_runner_host_request_duration_seconds_count{call="register",code="other"} 1`,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(text, "kohaku_host_") {
		t.Error("a Runner has metrics of the Host")
	}
}

// A scrape at 255 tunnels: how many series, and no more whatever callers do.
func TestCardinality(t *testing.T) {
	s := hostSet(func() Snapshot { return full(255) })
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /api/heartbeat/{hostname}", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(799) })
	h := s.API(mux, mux)
	count := func() int {
		n := 0
		for line := range strings.Lines(scrape(t, s)) {
			if strings.HasPrefix(line, "kohaku_") {
				n++
			}
		}
		return n
	}
	ask := func(i int) {
		for _, path := range []string{"/api/heartbeat/", "/x/"} {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("PUT", fmt.Sprintf("%s%d", path, i), nil))
		}
	}
	ask(0)
	n := count()
	for i := range 500 {
		ask(i)
	}
	if again := count(); again != n {
		t.Errorf("%d series have become %d", n, again)
	}
	// 255 tunnels with 5 and their reasons each, 2 per Runner, and what is not
	// per tunnel.
	if want := 255*(5+len(engine.Drops())-5+2) + 200; n > want {
		t.Errorf("%d series, wanted at most %d", n, want)
	}
	if text := scrape(t, s); !strings.Contains(text, `kohaku_api_request_duration_seconds_count{call="PUT /api/heartbeat/{hostname}",code="404"} 501`) ||
		!strings.Contains(text, `kohaku_api_request_duration_seconds_count{call="other",code="other"} 501`) {
		t.Error("calls are not timed by their patterns")
	}
}

func BenchmarkScrape255(b *testing.B) {
	s := hostSet(func() Snapshot { return full(255) })
	h := s.Handler()
	r := httptest.NewRequest("GET", "/metrics", nil)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		b.SetBytes(int64(w.Body.Len()))
	}
}

// A nil Set is what a daemon without metrics has.
func TestNilSet(t *testing.T) {
	var s *Set
	s.Collect(nil)
	s.HostCall("x", 1, 1)
	if changed, _ := s.Changed("mtu")(true, nil); !changed {
		t.Error("Changed does not give back what it got")
	}
	mux := http.NewServeMux()
	if s.API(mux, mux) != http.Handler(mux) {
		t.Error("something stands before the API")
	}
	s.Serve(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"), nil, nil, nil)
}

func TestServe(t *testing.T) {
	s := hostSet(func() Snapshot { return full(1) })
	var wrong []string
	ctx, end := context.WithCancel(t.Context())
	reports := make(chan error, 10)
	// Taken at first.
	busy := httptest.NewServer(http.NotFoundHandler())
	at := netip.MustParseAddrPort(strings.TrimPrefix(busy.URL, "http://"))
	ended := make(chan struct{})
	go func() {
		s.Serve(ctx, at, Health(func() []string { return wrong }), slog.New(slog.DiscardHandler), func(err error) { reports <- err })
		close(ended)
	}()
	if err := <-reports; err == nil || !strings.Contains(err.Error(), "port is taken") {
		t.Fatalf("a port that is taken: %v", err)
	}
	busy.Close()
	for err := range reports { // tried again
		if err == nil {
			break
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		t.Helper()
		res, err := client.Get("http://" + at.String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	if code, body := get("/healthz"); code != 200 || body != "{\"status\":\"ok\"}\n" {
		t.Errorf("healthz: %d %s", code, body)
	}
	wrong = []string{"it hangs"}
	if code, body := get("/healthz"); code != 503 || body != "{\"status\":\"unhealthy\",\"reasons\":[\"it hangs\"]}\n" {
		t.Errorf("healthz: %d %s", code, body)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, "kohaku_build_info") {
		t.Errorf("metrics: %d", code)
	}
	if code, _ := get("/"); code != 404 {
		t.Errorf("anything else: %d", code)
	}
	end()
	<-ended
}
