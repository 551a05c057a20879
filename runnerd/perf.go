// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"context"
	"errors"
	"sync"
	"time"

	"kohaku/engine"
	"kohaku/internal/api"
)

const (
	// perfRetry lies between two calls for tasks when the Host did not answer.
	perfRetry = 2 * time.Second
	// perfUnknown is the same when it does not know the call, or this Runner.
	perfUnknown = 30 * time.Second
	// perfSlack is what a task may take beside its measurement.
	perfSlack = 30 * time.Second
	// maxPerfTasks bounds what runs at once: a server and a client.
	maxPerfTasks = 2
)

// perfTasks are the measurements under way.
type perfTasks struct {
	mu      sync.Mutex
	running map[uint64]context.CancelFunc
}

// answerPerf fetches and carries out the Host's requests to measure, until ctx
// ends. Between them nothing is open: the Runner asks, and the Host answers when
// there is something to do.
func (r *Runner) answerPerf(ctx context.Context, name string) {
	if r.opts.Meter == nil {
		return
	}
	tasks := perfTasks{running: make(map[uint64]context.CancelFunc)}
	var group sync.WaitGroup
	defer group.Wait()
	for ctx.Err() == nil {
		got, err := r.opts.Host.PerfTasks(ctx, name, api.PerfPoll{MachineID: r.opts.MachineID, RunnerID: r.current().id})
		if err != nil {
			if ctx.Err() == nil {
				r.log.Debug("ask the Host for measurements", "error", err)
			}
			wait := perfRetry
			if api.IsNotFound(err) {
				wait = perfUnknown
			}
			pause(ctx, wait)
			continue
		}
		for _, t := range got {
			if t.Kind == api.PerfCancel {
				tasks.cancel(t.ID)
				continue
			}
			group.Go(func() { r.doPerf(ctx, name, &tasks, t) })
		}
	}
}

// doPerf carries out one task and reports.
func (r *Runner) doPerf(ctx context.Context, name string, tasks *perfTasks, t api.PerfTask) {
	report := func(p api.PerfReport) {
		p.MachineID, p.RunnerID, p.TaskID, p.Error = r.opts.MachineID, r.current().id, t.ID, api.FitText(p.Error)
		err := r.opts.Host.PerfReport(ctx, name, p)
		if err != nil && !api.Answered(err) && pause(ctx, 100*time.Millisecond) {
			err = r.opts.Host.PerfReport(ctx, name, p)
		}
		if err != nil && ctx.Err() == nil {
			r.log.Warn("the Host did not take what was measured", "task", t.ID, "error", err)
		}
	}
	if err := t.Check(); err != nil {
		report(api.PerfReport{State: api.PerfDone, Error: "the Host's request makes no sense: " + err.Error()})
		return
	}
	taskCtx, err := tasks.begin(ctx, t)
	if err != nil {
		report(api.PerfReport{State: api.PerfDone, Error: err.Error()})
		return
	}
	defer tasks.cancel(t.ID)
	r.log.Info("a measurement on the Host's request", "kind", t.Kind, "seconds", t.Seconds, "listen", t.Listen, "server", t.Server)
	r.opts.Meter.Do(taskCtx, t, r.engineStats, report)
}

// begin enters a task and bounds it: should the Host go away, it ends all the same.
func (p *perfTasks) begin(ctx context.Context, t api.PerfTask) (context.Context, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.running) >= maxPerfTasks || p.running[t.ID] != nil {
		return nil, errors.New("busy with another measurement: try again when it is over")
	}
	ctx, p.running[t.ID] = context.WithTimeout(ctx, time.Duration(t.Seconds*float64(time.Second))+perfSlack)
	return ctx, nil
}

// cancel ends a task. One that is not there is no error.
func (p *perfTasks) cancel(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if end := p.running[id]; end != nil {
		end()
		delete(p.running, id)
	}
}

// engineStats are those of the data plane, zero while there is none.
func (r *Runner) engineStats() engine.Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wire.plane == nil {
		return engine.Stats{}
	}
	return r.wire.plane.Stats()
}
