// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"kohaku/engine"
	"kohaku/internal/api"
	"kohaku/internal/dataplane"
)

// fakeMeter is the Host's own end.
type fakeMeter struct {
	mu      sync.Mutex
	tasks   []api.PerfTask
	watches int
	silent  bool // a server that never has a client
}

func (m *fakeMeter) Do(ctx context.Context, t api.PerfTask, stats func() engine.Stats, report func(api.PerfReport)) {
	m.mu.Lock()
	m.tasks = append(m.tasks, t)
	silent := m.silent
	m.mu.Unlock()
	r := api.PerfReport{TaskID: t.ID, State: api.PerfDone, Seen: &api.PerfSeen{CPUs: stats().Workers}}
	if t.Kind == api.PerfServe {
		report(api.PerfReport{TaskID: t.ID, State: api.PerfReady, Port: 5201})
		if silent {
			<-ctx.Done()
			r.Error = ctx.Err().Error()
		}
	} else {
		r.Figures = &api.PerfFigures{Bits: 5e9}
	}
	report(r)
}

func (m *fakeMeter) Watch(api.PerfTask, func() engine.Stats) func() api.PerfSeen {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watches++
	return func() api.PerfSeen { return api.PerfSeen{} }
}

func (m *fakeMeter) did() []api.PerfTask {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]api.PerfTask(nil), m.tasks...)
}

// perfRunner plays a Runner: it fetches tasks and does them with a meter of its own.
func perfRunner(t *testing.T, client *api.Client, a api.RegisterAnswer, machine string, meter dataplane.Meter) {
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() {
		running := map[uint64]context.CancelFunc{}
		for {
			tasks, err := client.PerfTasks(ctx, a.RunnerName, api.PerfPoll{MachineID: machine, RunnerID: a.RunnerID})
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			for _, task := range tasks {
				if task.Kind == api.PerfCancel {
					running[task.ID]()
					continue
				}
				taskCtx, cancel := context.WithCancel(ctx)
				running[task.ID] = cancel
				group.Go(func() {
					meter.Do(taskCtx, task, func() engine.Stats { return engine.Stats{} }, func(r api.PerfReport) {
						r.MachineID, r.RunnerID = machine, a.RunnerID
						// Nobody waits for the report of a task that was ended.
						if err := client.PerfReport(ctx, a.RunnerName, r); err != nil && taskCtx.Err() == nil {
							t.Error(err)
						}
					})
				})
			}
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
}

// perfWorld is a Host with two runners that can measure.
func perfWorld(t *testing.T) (w *world, client *api.Client, meters [3]*fakeMeter) {
	w = newWorld(t)
	for i := range meters {
		meters[i] = &fakeMeter{}
	}
	w.meter = meters[0]
	client, _ = run(t, w)
	for i, q := range []api.RegisterRequest{request("r1", runnerID, runnerAddr), request("r2", otherID, otherAddr)} {
		a, err := client.Register(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		perfRunner(t, client, a, q.MachineID, meters[i+1])
	}
	return w, client, meters
}

func step(from, to, network string) api.PerfStep {
	return api.PerfStep{From: from, To: to, Network: network, Mode: api.PerfTCP, Streams: 2, Seconds: 1}
}

func TestPerfSteps(t *testing.T) {
	_, client, meters := perfWorld(t)
	s, err := client.OpenPerf(t.Context())
	if err != nil || s.Token == "" || s.LeaseSeconds != 60 {
		t.Fatalf("%+v, %v", s, err)
	}
	for _, c := range []struct {
		q              api.PerfStep
		client, server string
		machines       int
	}{
		{step("r1", "", api.PerfUnderlay), runnerAddr.String(), hostAddr.String() + ":5201", 2},
		{step("r1", "", api.PerfOverlay), "10.1.0.1", "10.0.0.1:5201", 2},
		{step("", "r2", api.PerfOverlay), "10.0.0.1", "10.2.0.1:5201", 2},
		{step("r1", "r2", api.PerfUnderlay), runnerAddr.String(), otherAddr.String() + ":5201", 3},
		{step("r1", "r2", api.PerfOverlay), "10.1.0.1", "10.2.0.1:5201", 3},
	} {
		a, err := client.Perf(t.Context(), s.Token, c.q)
		if err != nil || a.Client.String() != c.client || a.Server.String() != c.server || a.Figures.Bits != 5e9 || len(a.Seen) != c.machines {
			t.Errorf("%+v: %+v, %v", c.q, a, err)
		}
	}
	if meters[0].watches != 2 {
		t.Errorf("the Host watched %d times as the one between, want 2", meters[0].watches)
	}
	served := meters[2].did()
	if len(served) != 3 {
		t.Fatalf("r2 did %+v", served)
	}
	for _, task := range served {
		if err := task.Check(); err != nil || task.Kind != api.PerfServe || task.Allow.IsUnspecified() || task.Listen.IsUnspecified() {
			t.Errorf("task %+v: %v", task, err)
		}
	}
	if last := served[2]; last.Allow.String() != "10.1.0.1" || last.Tunnels[0] != "vxlan0" || last.Peers[0] != hostAddr {
		t.Errorf("task %+v", last)
	}
	if err := client.ClosePerf(t.Context(), s.Token); err != nil {
		t.Error(err)
	}
}

// answers asserts that a call is refused with a code and a text.
func answers(t *testing.T, err error, code int, says string) {
	t.Helper()
	call, ok := errors.AsType[*api.CallError](err)
	if !ok || call.StatusCode != code || !strings.Contains(call.Error(), says) {
		t.Errorf("error %v, want %d with %q", err, code, says)
	}
}

func TestPerfSessions(t *testing.T) {
	w, client, meters := perfWorld(t)
	ctx := t.Context()
	first, err := client.OpenPerf(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.OpenPerf(ctx)
	answers(t, err, http.StatusConflict, "busy")
	_, err = client.Perf(ctx, "WRONG", step("r1", "", api.PerfOverlay))
	answers(t, err, http.StatusNotFound, "no such measurement")
	_, err = client.Perf(ctx, "wrong!", step("r1", "", api.PerfOverlay))
	answers(t, err, http.StatusBadRequest, "token")
	_, err = client.Perf(ctx, first.Token, step("r9", "", api.PerfOverlay))
	answers(t, err, http.StatusNotFound, `no runner "r9"`)
	_, err = client.Perf(ctx, first.Token, step("r1", "r1", api.PerfOverlay))
	answers(t, err, http.StatusBadRequest, "two ends")

	// The lease ends, and with it the right to measure; the next one may.
	w.clock.advance(api.PerfLease + time.Second)
	if err := w.renew(client); err != nil {
		t.Fatal(err)
	}
	_, err = client.Perf(ctx, first.Token, step("r1", "", api.PerfOverlay))
	answers(t, err, http.StatusNotFound, "no such measurement")
	second, err := client.OpenPerf(ctx)
	if err != nil {
		t.Fatal(err)
	}
	answers(t, client.ClosePerf(ctx, first.Token), http.StatusNotFound, "no such measurement")

	// A step under way keeps others out, and ends with its session.
	meters[0].mu.Lock()
	meters[0].silent = true
	meters[0].mu.Unlock()
	ended := make(chan error, 1)
	meters[1].mu.Lock() // the client does not come
	go func() {
		_, err := client.Perf(ctx, second.Token, step("r1", "", api.PerfOverlay))
		ended <- err
	}()
	eventually(t, func() bool { return len(meters[0].did()) == 1 })
	_, err = client.Perf(ctx, second.Token, step("r2", "", api.PerfOverlay))
	answers(t, err, http.StatusConflict, "a step of this measurement is under way")
	_, err = client.OpenPerf(ctx)
	answers(t, err, http.StatusConflict, "busy")
	if err := client.ClosePerf(ctx, second.Token); err != nil {
		t.Error(err)
	}
	answers(t, <-ended, http.StatusBadGateway, "canceled")
	meters[1].mu.Unlock()
}

// renew lets the runners be active again after the clock was moved.
func (w *world) renew(client *api.Client) error {
	for _, q := range []api.RegisterRequest{request("r1", runnerID, runnerAddr), request("r2", otherID, otherAddr)} {
		if _, err := client.Register(w.t.Context(), q); err != nil {
			return err
		}
	}
	return nil
}

func TestPerfNeedsTheRunnerItself(t *testing.T) {
	w := newWorld(t)
	w.meter = &fakeMeter{}
	client, _ := run(t, w)
	a, err := client.Register(t.Context(), request("r1", runnerID, runnerAddr))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		poll api.PerfPoll
		code int
	}{
		{"r2", api.PerfPoll{MachineID: runnerID, RunnerID: 1}, http.StatusNotFound},
		{"r1", api.PerfPoll{MachineID: runnerID, RunnerID: 2}, http.StatusNotFound},
		{"r1", api.PerfPoll{MachineID: otherID, RunnerID: 1}, http.StatusConflict},
	} {
		_, err := client.PerfTasks(t.Context(), c.name, c.poll)
		answers(t, err, c.code, "")
	}
	err = client.PerfReport(t.Context(), a.RunnerName, api.PerfReport{MachineID: runnerID, RunnerID: 1, TaskID: 99, State: api.PerfDone})
	answers(t, err, http.StatusNotFound, "nobody waits")
}

// A later call of a runner makes an earlier one, which it cannot be waiting for any
// more, return with nothing; the task goes to the later one.
func TestPerfDeskServesTheLatestCall(t *testing.T) {
	d := newPerfDesk()
	early := make(chan []api.PerfTask)
	go func() { early <- d.fetch(t.Context(), "r1", time.Hour) }()
	eventually(t, func() bool { d.mu.Lock(); defer d.mu.Unlock(); return d.boxes["r1"] != nil })
	late := make(chan []api.PerfTask)
	go func() { late <- d.fetch(t.Context(), "r1", time.Hour) }()
	if got := <-early; got != nil {
		t.Errorf("the early call got %+v", got)
	}
	call := d.ask("r1", api.PerfTask{Kind: api.PerfServe})
	if got := <-late; len(got) != 1 || got[0].ID != call.id {
		t.Errorf("the late call got %+v", got)
	}
	// Fetched and then ended: the runner is told.
	call.end()
	if got := d.fetch(t.Context(), "r1", time.Hour); len(got) != 1 || got[0].Kind != api.PerfCancel || got[0].ID != call.id {
		t.Errorf("after the end %+v", got)
	}
	if len(d.calls) != 0 {
		t.Errorf("calls %+v", d.calls)
	}
	// Ended before it was fetched: nothing is left, not even the box.
	d.ask("r1", api.PerfTask{Kind: api.PerfServe}).end()
	if got := d.fetch(t.Context(), "r1", time.Millisecond); got != nil || len(d.boxes) != 0 {
		t.Errorf("got %+v, boxes %+v", got, d.boxes)
	}
	go func() { late <- d.fetch(t.Context(), "r1", time.Hour) }()
	d.close()
	if got := <-late; got != nil {
		t.Errorf("at the daemon's end %+v", got)
	}
}

func TestPerfReportsWhatARunnerSays(t *testing.T) {
	d := newPerfDesk()
	call := d.ask("r1", api.PerfTask{Kind: api.PerfServe})
	if d.take("r2", api.PerfReport{TaskID: call.id, State: api.PerfReady}) {
		t.Error("another runner's report was taken")
	}
	d.take("r1", api.PerfReport{TaskID: call.id, State: api.PerfDone, Error: "no such address"})
	if _, err := call.await(t.Context(), api.PerfReady, time.Hour); err == nil || err.Error() != "runner r1: no such address" {
		t.Errorf("error %v", err)
	}
	late := d.ask("r1", api.PerfTask{Kind: api.PerfServe})
	if _, err := late.await(t.Context(), api.PerfReady, time.Millisecond); err == nil || !strings.Contains(err.Error(), "did not answer within 1ms") {
		t.Errorf("error %v", err)
	}
}

func TestPerfWithoutAMeter(t *testing.T) {
	w := newWorld(t)
	client, _ := run(t, w)
	_, err := client.OpenPerf(t.Context())
	answers(t, err, http.StatusNotImplemented, "cannot measure")
}
