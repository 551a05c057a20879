// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kohaku/engine"
	"kohaku/internal/api"
)

// fakeMeter does every task until it is cancelled.
type fakeMeter struct{ began, ended chan api.PerfTask }

func (m fakeMeter) Do(ctx context.Context, t api.PerfTask, stats func() engine.Stats, report func(api.PerfReport)) {
	report(api.PerfReport{TaskID: t.ID, State: api.PerfReady, Port: uint16(stats().Workers)})
	m.began <- t
	<-ctx.Done()
	report(api.PerfReport{TaskID: t.ID, State: api.PerfDone, Error: "\x1b" + ctx.Err().Error()})
	m.ended <- t
}

func (fakeMeter) Watch(api.PerfTask, func() engine.Stats) func() api.PerfSeen {
	panic("not a Runner's")
}

func serveTask(id uint64) api.PerfTask {
	return api.PerfTask{ID: id, Kind: api.PerfServe, Mode: api.PerfTCP, Seconds: 60, Listen: ownAddr, Allow: hostAddr}
}

func newPerfWorld(t *testing.T) (*world, fakeMeter) {
	w := newWorld(t)
	w.host.tasks, w.host.reports = make(chan []api.PerfTask), make(chan api.PerfReport, 16)
	m := fakeMeter{make(chan api.PerfTask, 4), make(chan api.PerfTask, 4)}
	w.meter = m
	w.startReady()
	return w, m
}

// report waits for a report of a state.
func (w *world) report(state string) api.PerfReport {
	w.t.Helper()
	select {
	case r := <-w.host.reports:
		if r.State != state || r.MachineID != machineID || r.RunnerID != 1 {
			w.t.Errorf("report %+v, want %s", r, state)
		}
		return r
	case <-time.After(20 * time.Second):
		w.t.Fatalf("no report; the log says:\n%s", w.log)
		return api.PerfReport{}
	}
}

func TestPerfTasks(t *testing.T) {
	w, m := newPerfWorld(t)
	w.host.tasks <- []api.PerfTask{serveTask(7)}
	if r := w.report(api.PerfReady); r.TaskID != 7 || r.Port != 1 {
		t.Errorf("report %+v", r)
	}
	w.host.tasks <- []api.PerfTask{{ID: 8, Kind: api.PerfCancel}} // of nothing: harmless
	w.host.tasks <- []api.PerfTask{{ID: 7, Kind: api.PerfCancel}}
	if r := w.report(api.PerfDone); r.TaskID != 7 || r.Error != " context canceled" {
		t.Errorf("report %+v", r)
	}
	<-m.ended
}

func TestPerfIsBusy(t *testing.T) {
	w, m := newPerfWorld(t)
	w.host.tasks <- []api.PerfTask{serveTask(1), serveTask(2)}
	<-m.began
	<-m.began
	w.report(api.PerfReady)
	w.report(api.PerfReady)
	w.host.tasks <- []api.PerfTask{serveTask(3)}
	if r := w.report(api.PerfDone); r.TaskID != 3 || !strings.Contains(r.Error, "busy") {
		t.Errorf("report %+v", r)
	}
	// Whoever ends the Runner ends what it measures.
	w.end()
	<-m.ended
	<-m.ended
}

// A request that would open something to the world is not begun.
func TestPerfRefusesNonsense(t *testing.T) {
	w, m := newPerfWorld(t)
	open := serveTask(5)
	open.Allow = netip.IPv4Unspecified()
	w.host.tasks <- []api.PerfTask{open}
	if r := w.report(api.PerfDone); r.TaskID != 5 || !strings.Contains(r.Error, "makes no sense") {
		t.Errorf("report %+v", r)
	}
	if len(m.began) != 0 {
		t.Error("the task was begun")
	}
}

// When the Runner registers again, what it measured under the old name ends.
func TestPerfEndsWithTheRegistration(t *testing.T) {
	w, m := newPerfWorld(t)
	w.host.tasks <- []api.PerfTask{serveTask(9)}
	<-m.began
	w.host.change(func() { w.host.beat.MTU = 1400 })
	select {
	case <-m.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the task goes on")
	}
}
