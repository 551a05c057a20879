// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"kohaku/perf/iperf"
)

func TestRoundTrips(t *testing.T) {
	for i := range 4 {
		udp, alone := i%2 == 1, i >= 2
		streams := 2
		if alone {
			streams = 1
		}
		at, results := ourServer(t, ServerConfig{Dedicated: alone})
		r, err := RunClient(t.Context(), ClientConfig{
			Dedicated: alone,
			Server:    at.String(), UDP: udp, Mode: RoundTrip, Streams: streams, Duration: 500 * time.Millisecond, Interval: 100 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		l := r.Latency
		if l == nil || l.Count < 100 {
			t.Fatalf("udp=%v: latency %+v, want at least 100 round trips", udp, l)
		}
		if l.Min <= 0 || l.Min > l.P50 || l.P50 > l.P90 || l.P90 > l.P99 || l.P99 > l.P999 || l.P999 > l.Max+l.Max/500 {
			t.Errorf("udp=%v: quantiles are not in order: %+v", udp, l)
		}
		var requests int64
		for _, iv := range r.Intervals {
			requests += iv.Requests
		}
		if requests == 0 || requests > l.Count {
			t.Errorf("udp=%v: the intervals have %d round trips, the end %d", udp, requests, l.Count)
		}
		if srv := <-results; srv.Err != nil || srv.Mode() != RoundTrip {
			t.Errorf("udp=%v: server: mode %q, err %v", udp, srv.Mode(), srv.Err)
		}
		b, err := json.Marshal(r.JSON())
		if err != nil || !bytes.Contains(b, []byte(`"p99_9_us"`)) {
			t.Errorf("JSON without latency (%v): %s", err, b)
		}
	}
}

func TestConnectionRate(t *testing.T) {
	at, results := ourServer(t, ServerConfig{})
	r, err := RunClient(t.Context(), ClientConfig{Server: at.String(), Mode: Connect, Streams: 2, Duration: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if r.Latency == nil || r.Latency.Count < 20 || r.Latency.Lost > r.Latency.Count {
		t.Fatalf("latency %+v, want at least 20 connections and few lost", r.Latency)
	}
	if srv := <-results; srv.Err != nil {
		t.Errorf("server: %v", srv.Err)
	}
}

func TestStockServerIsNamed(t *testing.T) {
	port, output := stockServer(t)
	_, err := runClient(t, t.Context(), ClientConfig{Server: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Mode: RoundTrip})
	if !errors.Is(err, ErrStockServer) {
		t.Errorf("round trips against iperf3: %v, want %v", err, ErrStockServer)
	}
	if out := output(); !bytes.Contains(out, []byte("client has terminated")) {
		t.Errorf("the stock server was not told: %s", out)
	}
}

func TestBytesEndTheTest(t *testing.T) {
	for _, cfg := range []ClientConfig{
		{Bytes: 5_000_001},
		{Bytes: 3_000_000, UDP: true, Length: 1000, Rate: 100e6},
		{Bytes: 5_000_000, Reverse: true},
	} {
		at, _ := ourServer(t, ServerConfig{})
		cfg.Server = at.String()
		r, err := RunClient(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		sent, received := r.Sum(!cfg.Reverse)
		got := sent.Bytes
		if cfg.Reverse {
			got = received.Bytes
		}
		if got < cfg.Bytes || !cfg.Reverse && got > cfg.Bytes+1000 {
			t.Errorf("%+v: moved %d bytes", cfg, got)
		}
	}
}

func TestOmit(t *testing.T) {
	at, results := ourServer(t, ServerConfig{Interval: 200 * time.Millisecond})
	client := stockClient(t, at, "-O", "1", "-u", "-b", "8M", "-l", "1000")
	r := <-results
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	server := resultDoc(t, "our server", r)
	near(t, "bytes after the omitted second", client.End.SumReceived.Bytes, server.End.SumReceived.Bytes)
	near(t, "datagrams after the omitted second", client.End.SumReceived.Packets, server.End.SumReceived.Packets)
	if got := server.End.SumReceived.Bytes; got > 1.7e6 {
		t.Errorf("%.0f bytes of 1 s at 1 MB/s: the omitted second is in it", got)
	}
	checkIntervals(t, r)
}

func TestBusy(t *testing.T) {
	at, results := ourServer(t, ServerConfig{})
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	first := make(chan error, 1)
	go func() {
		r, err := RunClient(ctx, ClientConfig{Server: at.String(), Duration: time.Minute, OnStart: func(*Result) { close(started) }})
		if r == nil || r.Err == nil {
			err = errors.New("an interrupted client has no partial result")
		}
		first <- err
	}()
	<-started
	if _, err := RunClient(t.Context(), ClientConfig{Server: at.String()}); !errors.Is(err, ErrBusy) {
		t.Errorf("second client: %v, want %v", err, ErrBusy)
	}
	out, err := exec.Command("iperf3", "-c", at.Addr().String(), "-p", strconv.Itoa(int(at.Port())), "-t", "1").CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("busy")) {
		t.Errorf("stock client while busy: %v, %s", err, out)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted client: %v", err)
	}
	if r := <-results; !errors.Is(r.Err, ErrClientStopped) {
		t.Errorf("server of an interrupted client: %v, want %v", r.Err, ErrClientStopped)
	}
}

// TestInARow asserts that a client is not turned away because of its own last test.
func TestInARow(t *testing.T) {
	at, _ := ourServer(t, ServerConfig{})
	for i := range 20 {
		if _, err := RunClient(t.Context(), ClientConfig{Server: at.String(), Bytes: 1 << 20}); err != nil {
			t.Fatalf("test %d: %v", i, err)
		}
	}
}

// stoppable runs a server on loopback until stop; done gives what Serve returned.
func stoppable(t *testing.T) (at string, stop func(), done <-chan error) {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, ServerConfig{Listener: ln}) }()
	return ln.Addr().String(), cancel, served
}

func TestServerStops(t *testing.T) {
	at, stop, done := stoppable(t)
	r, err := RunClient(t.Context(), ClientConfig{
		Server: at, Duration: time.Minute, OnStart: func(*Result) { stop() },
	})
	if !errors.Is(err, ErrServerStopped) {
		t.Errorf("client of a stopped server: %v, want %v", err, ErrServerStopped)
	}
	if r == nil || !errors.Is(r.Err, ErrServerStopped) {
		t.Errorf("no partial result: %+v", r)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestStockServerInterrupted(t *testing.T) {
	port := freePort(t)
	cmd := exec.Command("iperf3", "-s", "-B", "127.0.0.1", "-p", strconv.Itoa(port))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, err := runClient(t, t.Context(), ClientConfig{
		Server: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Duration: time.Minute, Rate: 1e6,
		Interval: 100 * time.Millisecond, OnInterval: func(*Interval) { _ = cmd.Process.Signal(os.Interrupt) },
	})
	if !errors.Is(err, ErrServerStopped) {
		t.Errorf("client of an interrupted stock server: %v, want %v", err, ErrServerStopped)
	}
	_ = cmd.Wait()
}

func TestStockClientInterrupted(t *testing.T) {
	started := make(chan struct{})
	at, results := ourServer(t, ServerConfig{OnStart: func(*Result) { close(started) }})
	cmd := exec.Command("iperf3", "-c", at.Addr().String(), "-p", strconv.Itoa(int(at.Port())), "-t", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-started
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
	if r := <-results; !errors.Is(r.Err, ErrClientStopped) {
		t.Errorf("server of an interrupted stock client: %v, want %v", r.Err, ErrClientStopped)
	}
}

func TestOneOff(t *testing.T) {
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), ServerConfig{Listener: ln, OneOff: true}) }()
	if _, err := RunClient(t.Context(), ClientConfig{Server: ln.Addr().String(), Duration: 200 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestLimits(t *testing.T) {
	at, results := ourServer(t, ServerConfig{MaxDuration: 5 * time.Second, MaxRate: 10e6})
	for _, tt := range []struct {
		cfg  ClientConfig
		want iperf.Code
	}{
		{ClientConfig{Duration: 6 * time.Second, Rate: 1e6}, iperf.CodeDuration},
		{ClientConfig{Duration: time.Second}, iperf.CodeTotalRate},
		{ClientConfig{Duration: time.Second, Rate: 6e6, Bidir: true}, iperf.CodeTotalRate},
	} {
		tt.cfg.Server = at.String()
		_, err := RunClient(t.Context(), tt.cfg)
		var remote *iperf.RemoteError
		if !errors.As(err, &remote) || remote.Code != tt.want {
			t.Errorf("%+v: %v, want code %d", tt.cfg, err, tt.want)
		}
		if r := <-results; r.Err == nil {
			t.Errorf("%+v: the server reports success", tt.cfg)
		}
	}
}

func TestNotAllowed(t *testing.T) {
	at, _ := ourServer(t, ServerConfig{Allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	if _, err := RunClient(t.Context(), ClientConfig{Server: at.String()}); !errors.Is(err, ErrBusy) {
		t.Errorf("client from elsewhere: %v, want %v", err, ErrBusy)
	}
}

// TestStrangers talks nonsense to a server, which must stay of use.
func TestStrangers(t *testing.T) {
	at, results := ourServer(t, ServerConfig{})
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	// Not the protocol at all: closed without an answer.
	c := dial()
	_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: example\r\n\r\n\r\n\r\n\r\n"))
	if b, _ := io.ReadAll(c); len(b) != 0 {
		t.Errorf("an HTTP request got the answer %x", b)
	}
	c.Close()

	// A cookie, then a JSON text of 4 GiB: refused at once.
	cookie := iperf.NewCookie()
	c = dial()
	_, _ = c.Write(cookie[:])
	var state [1]byte
	if _, err := io.ReadFull(c, state[:]); err != nil || iperf.State(state[0]) != iperf.ParamExchange {
		t.Fatalf("state %v, err %v", state, err)
	}
	_, _ = c.Write(binary.BigEndian.AppendUint32(nil, 0xffffffff))
	if _, err := io.ReadFull(c, state[:]); err != nil || iperf.State(int8(state[0])) != iperf.ServerError {
		t.Errorf("4 GiB of parameters: state %v, err %v", state, err)
	}
	c.Close()
	if r := <-results; r.Err == nil {
		t.Error("the server reports success")
	}

	// Good parameters, but the stream comes with another cookie.
	c = dial()
	_, _ = c.Write(cookie[:])
	_, _ = io.ReadFull(c, state[:])
	if err := iperf.WriteFrame(c, &iperf.Params{TCP: true, Time: 1}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadFull(c, state[:])
	if iperf.State(state[0]) != iperf.CreateStreams {
		t.Fatalf("state %v", state)
	}
	stream := dial()
	wrong := iperf.NewCookie()
	_, _ = stream.Write(wrong[:])
	if b, _ := io.ReadAll(stream); !bytes.Equal(b, []byte{0xff}) {
		t.Errorf("a stream with a wrong cookie got %x, want ACCESS_DENIED", b)
	}
	stream.Close()
	c.Close()
	if r := <-results; r.Err == nil || !strings.Contains(r.Err.Error(), "before its streams stood") {
		t.Errorf("server: %v", r.Err)
	}

	if _, err := RunClient(t.Context(), ClientConfig{Server: at.String(), Duration: 200 * time.Millisecond}); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func TestPrinter(t *testing.T) {
	for _, cfg := range []ClientConfig{
		{Bidir: true, Streams: 2}, {UDP: true, Rate: 1e6, Length: 500}, {Mode: RoundTrip}, {Mode: Connect},
	} {
		at, _ := ourServer(t, ServerConfig{})
		var out bytes.Buffer
		p := NewPrinter(&out)
		cfg.Server, cfg.Duration, cfg.Interval = at.String(), 300*time.Millisecond, 100*time.Millisecond
		cfg.OnStart, cfg.OnInterval = p.Start, p.Interval
		r, err := RunClient(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		p.Summary(r)
		if p.Err() != nil {
			t.Fatal(p.Err())
		}
		t.Logf("\n%s", out.String())
		for _, want := range []string{"Connected to " + at.String(), "CPU of this machine", " sec"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%+v: no %q in\n%s", cfg, want, out.String())
			}
		}
	}
}
