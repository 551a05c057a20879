// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"errors"
	"testing"
	"time"
)

// behindGate starts a client behind a gate and returns when its test has begun;
// done gives the test's end.
func behindGate(t *testing.T, cfg ClientConfig) (g *Gate, done chan error, result *Result) {
	t.Helper()
	g, done, result = NewGate(), make(chan error, 1), new(Result)
	started := make(chan bool)
	cfg.Gate, cfg.Duration = g, time.Minute
	cfg.OnStart = func(*Result) { close(started) }
	go func() {
		r, err := RunClient(t.Context(), cfg)
		if r != nil {
			*result = *r
		}
		done <- err
	}()
	select {
	case <-started:
	case err := <-done:
		t.Fatalf("the client did not start: %v", err)
	}
	return g, done, result
}

// settled gives what a meter saw once the receiver has read what its kernel had.
func settled(m *Meter) Count {
	for was, limit := m.Count(), time.Now().Add(5*time.Second); ; {
		time.Sleep(30 * time.Millisecond)
		is := m.Count()
		if is == was || time.Now().After(limit) {
			return is
		}
		was = is
	}
}

// TestGate asserts that a test sends while its gate is open and at no other time,
// that all of it has arrived when Open returns, that the two meters see what is in
// their windows, and that the result is of all turns.
func TestGate(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  ClientConfig
	}{
		{"tcp", ClientConfig{}},
		{"four tcp", ClientConfig{Streams: 4}},
		{"udp", ClientConfig{UDP: true, Length: 64}},
		{"round trips", ClientConfig{UDP: true, Mode: RoundTrip}},
		{"round trips alone", ClientConfig{UDP: true, Mode: RoundTrip, Dedicated: true}},
		{"connections", ClientConfig{Mode: Connect}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, client := new(Meter), new(Meter)
			at, results := ourServer(t, ServerConfig{Meter: server})
			tt.cfg.Server, tt.cfg.Meter = at.String(), client
			g, done, result := behindGate(t, tt.cfg)
			seen := server
			if tt.cfg.Mode != Throughput {
				seen = client
			}
			var all Count
			for range 2 {
				from := Now() + 10*time.Millisecond
				counts, until := from+20*time.Millisecond, from+60*time.Millisecond
				for _, m := range []*Meter{server, client} {
					m.Window(counts, until)
				}
				turn, err := g.Open(from, until)
				if err != nil {
					t.Fatal(err)
				}
				if now := Now(); now < until || turn.Drain < 0 || turn.Machine.Elapsed < 0.05 {
					t.Errorf("open until %v, it is %v: %+v", until, now, turn)
				}
				c := settled(seen)
				time.Sleep(50 * time.Millisecond)
				if later := seen.Count(); later != c {
					t.Errorf("something arrived while the gate was closed: %+v, then %+v", c, later)
				}
				if c.Bytes+c.Items == 0 || c.AllBytes+c.AllItems <= c.Bytes+c.Items || c.Last < until-40*time.Millisecond {
					t.Errorf("%+v: want something within the window and more in all", c)
				}
				if requests := tt.cfg.Mode != Throughput; requests != (c.Median > 0) {
					t.Errorf("median %v", c.Median)
				}
				all.AllBytes += c.AllBytes
				all.AllItems += c.AllItems
				all.Items += c.Items
			}
			g.End()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if srv := <-results; srv.Err != nil {
				t.Errorf("server: %v", srv.Err)
			}
			if tt.cfg.Mode != Throughput {
				// Before its window a client's request is not in the histogram.
				if result.Latency.Count != all.Items {
					t.Errorf("%d requests in the result, %d in the windows", result.Latency.Count, all.Items)
				}
			} else if _, got := result.Sum(true); got.Bytes != all.AllBytes {
				t.Errorf("%d bytes in the result, %d in all turns", got.Bytes, all.AllBytes)
			}
			if _, err := g.Open(Now(), Now()); !errors.Is(err, errGateWithoutTest) {
				t.Errorf("opened after the end: %v", err)
			}
		})
	}
}

// TestGateOfATestThatFails asserts that nobody waits for a test whose server is gone.
func TestGateOfATestThatFails(t *testing.T) {
	if _, err := NewGate().Open(Now(), Now()); !errors.Is(err, errGateWithoutTest) {
		t.Errorf("opened before the begin: %v", err)
	}
	at, stop, served := stoppable(t)
	g, done, _ := behindGate(t, ClientConfig{Server: at})
	stop()
	if err := <-done; !errors.Is(err, ErrServerStopped) {
		t.Errorf("the client: %v, want %v", err, ErrServerStopped)
	}
	if _, err := g.Open(Now(), Now()+time.Minute); !errors.Is(err, errGateWithoutTest) {
		t.Errorf("opened after that: %v", err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestGateRefuses(t *testing.T) {
	for _, c := range []ClientConfig{{Reverse: true}, {Bidir: true}, {Rate: 1e6}, {Bytes: 1}, {Omit: time.Second}} {
		c.Server, c.Gate = "192.0.2.1", NewGate()
		if err := c.Check(); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestMeter(t *testing.T) {
	var m Meter
	from := Now()
	m.Window(from, from+100)
	at := func(d time.Duration) time.Duration { return from - ahead + d }
	for _, a := range []struct {
		when   time.Duration
		inside bool
	}{{-1, false}, {0, true}, {99, true}, {100, false}} {
		if in := m.add(at(a.when), 10, 1); in != a.inside {
			t.Errorf("at %d: inside the window %v", a.when, in)
		}
	}
	if c := m.Count(); c != (Count{Bytes: 20, Items: 2, AllBytes: 40, AllItems: 4, Last: from + 100}) {
		t.Errorf("%+v", c)
	}
	m.Window(from, from+100)
	for i, took := range []time.Duration{7, 3, 9, 4} {
		m.answered(at(time.Duration(10*i)), took)
	}
	m.answered(at(200), 1000)
	if c := m.Count(); c.Median != 5 || c.Items != 4 || c.AllItems != 5 {
		t.Errorf("%+v, want the median of 3, 4, 7 and 9", c)
	}
	if nobody := (*Meter)(nil); !nobody.add(0, 1, 1) || !nobody.answered(0, 1) {
		t.Error("without a meter all counts")
	}
}
