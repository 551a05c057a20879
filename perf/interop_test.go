// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// doc is what the tests compare of iperf3's JSON and of ours.
type doc struct {
	Start struct {
		Cookie    string
		TestStart struct {
			Protocol   string
			NumStreams int `json:"num_streams"`
			Reverse    int
		} `json:"test_start"`
	}
	Intervals []struct {
		Streams []map[string]any
		Sum     map[string]any
	}
	End struct {
		Streams          []map[string]any
		Sum              figuresDoc
		SumSent          figuresDoc `json:"sum_sent"`
		SumReceived      figuresDoc `json:"sum_received"`
		SumSentBidir     figuresDoc `json:"sum_sent_bidir_reverse"`
		SumReceivedBidir figuresDoc `json:"sum_received_bidir_reverse"`
	}
	Error string
}

type figuresDoc struct {
	Seconds     float64
	Bytes       float64
	Bits        float64 `json:"bits_per_second"`
	Packets     float64
	Lost        float64 `json:"lost_packets"`
	LostPercent float64 `json:"lost_percent"`
	Jitter      float64 `json:"jitter_ms"`
}

func parseDoc(t *testing.T, who string, b []byte) doc {
	t.Helper()
	var d doc
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatalf("%s printed no JSON: %v\n%s", who, err, b)
	}
	if d.Error != "" {
		t.Fatalf("%s: %s", who, d.Error)
	}
	return d
}

func resultDoc(t *testing.T, who string, r *Result) doc {
	t.Helper()
	b, err := json.Marshal(r.JSON())
	if err != nil {
		t.Fatal(err)
	}
	return parseDoc(t, who, b)
}

// near fails unless two figures are positive and within 3 % of each other.
func near(t *testing.T, what string, a, b float64) {
	t.Helper()
	if a <= 0 || b <= 0 || math.Abs(a-b) > 0.03*math.Max(a, b) {
		t.Errorf("%s: client says %.0f, server says %.0f: more than 3 %% apart", what, a, b)
	}
}

// sameRate compares rates over the time that each end says it measured: on a busy
// machine one end may look at its clock later than the other, and the rates then
// differ though everything was counted.
func sameRate(t *testing.T, what string, c, s figuresDoc) {
	t.Helper()
	near(t, what, c.Bits*c.Seconds, s.Bits*s.Seconds)
	if math.Abs(c.Seconds-s.Seconds) > 0.25 {
		t.Errorf("%s: the client measured for %.2f s, the server for %.2f s", what, c.Seconds, s.Seconds)
	}
}

// freePort gives a TCP port of loopback that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// stockServer runs "iperf3 -s" for one test; the function gives its output.
func stockServer(t *testing.T, args ...string) (port int, output func() []byte) {
	t.Helper()
	port = freePort(t)
	cmd := exec.Command("iperf3", append([]string{"-s", "-1", "-B", "127.0.0.1", "-p", strconv.Itoa(port)}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting iperf3 (\"make deps\" installs it): %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	finished := false
	output = func() []byte {
		t.Helper()
		if !finished {
			finished = true
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				_ = cmd.Process.Kill()
				<-done
				t.Errorf("the stock server did not end after its test")
			}
		}
		return append(out.Bytes(), errOut.Bytes()...)
	}
	t.Cleanup(func() {
		if !finished {
			_ = cmd.Process.Kill()
			<-done
		}
	})
	return port, output
}

// runClient runs our client against a server that may still be starting.
func runClient(t *testing.T, ctx context.Context, cfg ClientConfig) (*Result, error) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); ; {
		r, err := RunClient(ctx, cfg)
		if errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(until) {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		return r, err
	}
}

// ourServer runs Serve on loopback; results come on the channel.
func ourServer(t *testing.T, cfg ServerConfig) (netip.AddrPort, <-chan *Result) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan *Result, 64)
	cfg.Listener = ln
	cfg.OnResult = func(r *Result) { results <- r }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().(*net.TCPAddr).AddrPort(), results
}

// stockClient runs "iperf3 -c -J" against a server.
func stockClient(t *testing.T, at netip.AddrPort, args ...string) doc {
	t.Helper()
	cmd := exec.Command("iperf3", append([]string{
		"-c", at.Addr().String(), "-p", fmt.Sprint(at.Port()), "-J", "-t", "1",
	}, args...)...)
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("iperf3 %v: %v\n%s", args, err, b)
	}
	return parseDoc(t, "iperf3 -c", b)
}

var interop = []struct {
	name string
	cfg  ClientConfig
	args []string // the same for iperf3 -c
}{
	{"tcp", ClientConfig{}, nil},
	{"tcp 4 streams", ClientConfig{Streams: 4}, []string{"-P", "4"}},
	{"tcp reverse", ClientConfig{Reverse: true}, []string{"-R"}},
	{"tcp reverse 4 streams", ClientConfig{Reverse: true, Streams: 4}, []string{"-R", "-P", "4"}},
	{"tcp bidir", ClientConfig{Bidir: true}, []string{"--bidir"}},
	{"tcp paced", ClientConfig{Rate: 50e6}, []string{"-b", "50M"}},
	{"udp", ClientConfig{UDP: true, Length: 1400, Rate: 20e6}, []string{"-u", "-l", "1400", "-b", "20M"}},
	{"udp 4 streams", ClientConfig{UDP: true, Length: 1400, Rate: 10e6, Streams: 4}, []string{"-u", "-l", "1400", "-b", "10M", "-P", "4"}},
	{"udp reverse", ClientConfig{UDP: true, Length: 1400, Rate: 20e6, Reverse: true}, []string{"-u", "-l", "1400", "-b", "20M", "-R"}},
	{"udp bidir", ClientConfig{UDP: true, Length: 1400, Rate: 20e6, Bidir: true}, []string{"-u", "-l", "1400", "-b", "20M", "--bidir"}},
	{"udp wide counters", ClientConfig{UDP: true, Length: 200, Rate: 5e6, Wide: true}, []string{"-u", "-l", "200", "-b", "5M", "--udp-counters-64bit"}},
}

// inFlightUDP is what may have been sent and not yet received on one stream when a
// test ends: the sockets' buffers, of which UDP uses the default.
const inFlightUDP = 160 << 10

// inFlightTCP is the same for TCP, whose buffers grow as far as the kernel lets them.
func inFlightTCP(t *testing.T) (bytes float64) {
	t.Helper()
	for _, name := range []string{"tcp_rmem", "tcp_wmem"} {
		b, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var least, normal, most float64
		if _, err := fmt.Sscan(string(b), &least, &normal, &most); err != nil {
			t.Fatalf("%s is %q: %v", name, b, err)
		}
		bytes += most
	}
	return bytes
}

// across compares what one end sent with what the other received. The rates are
// compared because the ends stop their clocks at different moments.
func across(t *testing.T, cfg ClientConfig, what string, sent, received figuresDoc) {
	t.Helper()
	inFlight := float64(inFlightUDP)
	if !cfg.UDP {
		inFlight = inFlightTCP(t)
	}
	if sent.Bytes >= received.Bytes && sent.Bytes-received.Bytes < inFlight*float64(max(cfg.Streams, 1)) {
		return
	}
	sameRate(t, what, sent, received)
}

// agree compares both ends of one test. A stock 3.12 server prints only its own
// side of each direction, so the comparison is of what both have.
func agree(t *testing.T, cfg ClientConfig, client, server doc) {
	t.Helper()
	if client.Start.Cookie != server.Start.Cookie {
		t.Errorf("cookies differ: %q and %q", client.Start.Cookie, server.Start.Cookie)
	}
	forward := func(c, s figuresDoc) { // the server received
		near(t, "bytes received by the server", c.Bytes, s.Bytes)
		sameRate(t, "rate received by the server", c, s)
		if cfg.UDP {
			near(t, "datagrams", c.Packets, s.Packets)
			if math.Abs(c.LostPercent-s.LostPercent) > 3 {
				t.Errorf("loss: client says %v %%, server says %v %%", c.LostPercent, s.LostPercent)
			}
		}
	}
	backward := func(c, s figuresDoc) { // the server sent
		near(t, "bytes sent by the server", c.Bytes, s.Bytes)
		if cfg.UDP {
			near(t, "datagrams sent by the server", c.Packets, s.Packets)
		}
	}
	switch {
	case cfg.Bidir:
		forward(client.End.SumReceived, server.End.SumReceived)
		backward(client.End.SumSentBidir, server.End.SumSentBidir)
		across(t, cfg, "sent by the server, received by the client", server.End.SumSentBidir, client.End.SumReceivedBidir)
	case cfg.Reverse:
		backward(client.End.SumSent, server.End.SumSent)
		across(t, cfg, "sent by the server, received by the client", server.End.SumSent, client.End.SumReceived)
	default:
		forward(client.End.SumReceived, server.End.SumReceived)
		across(t, cfg, "sent by the client, received by the server", client.End.SumSent, server.End.SumReceived)
	}
	n := max(cfg.Streams, 1)
	if cfg.Bidir {
		n *= 2
	}
	if len(client.End.Streams) != n || len(server.End.Streams) != n {
		t.Errorf("streams: client has %d, server has %d, want %d", len(client.End.Streams), len(server.End.Streams), n)
	}
}

// checkIntervals asserts that the intervals follow each other and add up to what
// this end saw; the last moments may be too short for an interval of their own.
func checkIntervals(t *testing.T, r *Result) {
	t.Helper()
	var sum int64
	at := 0.0
	for _, iv := range r.Intervals {
		if iv.Omitted {
			continue
		}
		if math.Abs(iv.Start-at) > 1e-6 || iv.End <= iv.Start {
			t.Errorf("an interval from %v to %v after one that ended at %v", iv.Start, iv.End, at)
		}
		at = iv.End
		for _, s := range iv.Streams {
			sum += s.Bytes
		}
	}
	var own int64
	for _, s := range r.Streams {
		if s.Sender {
			own += s.Sent.Bytes
		} else {
			own += s.Received.Bytes
		}
	}
	if sum > own || sum < own*3/4 {
		t.Errorf("the intervals add up to %d bytes, the end says %d", sum, own)
	}
}

func TestOurClientStockServer(t *testing.T) {
	for _, tt := range interop {
		t.Run(tt.name, func(t *testing.T) {
			port, output := stockServer(t, "-J")
			cfg := tt.cfg
			cfg.Server = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
			cfg.Duration = time.Second
			cfg.Interval = 250 * time.Millisecond
			r, err := runClient(t, t.Context(), cfg)
			if err != nil {
				t.Fatalf("RunClient: %v\nserver: %s", err, output())
			}
			checkIntervals(t, r)
			agree(t, cfg, resultDoc(t, "our client", r), parseDoc(t, "iperf3 -s", output()))
		})
	}
}

func TestStockClientOurServer(t *testing.T) {
	for _, tt := range interop {
		t.Run(tt.name, func(t *testing.T) {
			at, results := ourServer(t, ServerConfig{Interval: 250 * time.Millisecond})
			client := stockClient(t, at, tt.args...)
			r := <-results
			if r.Err != nil {
				t.Fatalf("our server: %v", r.Err)
			}
			agree(t, tt.cfg, client, resultDoc(t, "our server", r))
		})
	}
}
