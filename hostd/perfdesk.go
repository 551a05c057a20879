// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"kohaku/internal/api"
)

// perfDesk hands tasks of measurements to runners, which come and ask for them,
// and takes their reports. Nothing is kept beyond the call that wanted it.
type perfDesk struct {
	ended chan struct{} // closed when the daemon ends

	mu      sync.Mutex
	session *perfSession // nil: nobody measures
	boxes   map[string]*perfBox
	calls   map[uint64]*perfCall
	lastID  uint64
}

// perfBox holds what one runner has not fetched yet. Guarded by perfDesk.mu.
type perfBox struct {
	tasks []api.PerfTask
	turn  int           // of the runner's latest call: an earlier one is of no use to anybody
	wake  chan struct{} // closed, and made anew, when there is something to look at
}

func (b *perfBox) ring() {
	close(b.wake)
	b.wake = make(chan struct{})
}

// perfCall is a task that somebody waits for.
type perfCall struct {
	who     string // runner; empty: the Host
	id      uint64
	reports chan api.PerfReport
	done    bool   // PerfDone was awaited
	end     func() // the task is to end, if it has not
}

func newPerfDesk() *perfDesk {
	return &perfDesk{ended: make(chan struct{}), boxes: make(map[string]*perfBox), calls: make(map[uint64]*perfCall)}
}

// close lets all that wait return. Call it once.
func (d *perfDesk) close() {
	close(d.ended)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session != nil {
		d.session.cancel()
	}
}

// box gives a runner's box. Guarded by mu.
func (d *perfDesk) box(runner string) *perfBox {
	b := d.boxes[runner]
	if b == nil {
		b = &perfBox{wake: make(chan struct{})}
		d.boxes[runner] = b
	}
	return b
}

// fetch waits for tasks of a runner, at most for hold.
func (d *perfDesk) fetch(ctx context.Context, runner string, hold time.Duration) []api.PerfTask {
	timeout := time.NewTimer(hold)
	defer timeout.Stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.box(runner)
	b.turn++
	turn := b.turn
	b.ring()
	for over := false; ; {
		if b.turn != turn {
			return nil
		}
		if len(b.tasks) > 0 && ctx.Err() == nil {
			tasks := b.tasks
			b.tasks = nil
			return tasks
		}
		if over {
			if len(b.tasks) == 0 {
				delete(d.boxes, runner)
			}
			return nil
		}
		wake := b.wake
		d.mu.Unlock()
		select {
		case <-wake:
		case <-timeout.C:
			over = true
		case <-ctx.Done():
			over = true
		case <-d.ended:
			over = true
		}
		d.mu.Lock()
	}
}

// put gives a task to a runner. Guarded by mu.
func (d *perfDesk) put(runner string, t api.PerfTask) {
	b := d.box(runner)
	b.tasks = append(b.tasks, t)
	b.ring()
}

// enter makes a call with an id of its own. Guarded by mu.
func (d *perfDesk) enter(who string) *perfCall {
	d.lastID++
	c := &perfCall{who: who, id: d.lastID, reports: make(chan api.PerfReport, 4)}
	d.calls[c.id] = c
	return c
}

// ask has a runner begin a task. Its end is to be called.
func (d *perfDesk) ask(runner string, t api.PerfTask) *perfCall {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.enter(runner)
	t.ID = c.id
	c.end = func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.calls, c.id)
		if c.done {
			return
		}
		b := d.box(runner)
		before := len(b.tasks)
		b.tasks = slices.DeleteFunc(b.tasks, func(q api.PerfTask) bool { return q.ID == c.id })
		if len(b.tasks) == before { // fetched already
			d.put(runner, api.PerfTask{ID: c.id, Kind: api.PerfCancel})
		}
	}
	d.put(runner, t)
	return c
}

// take passes a report on to who waits for it, and reports whether somebody does.
func (d *perfDesk) take(who string, r api.PerfReport) bool {
	d.mu.Lock()
	c := d.calls[r.TaskID]
	d.mu.Unlock()
	if c == nil || c.who != who {
		return false
	}
	select {
	case c.reports <- r:
		return true
	default:
		return false // a task has two reports, and there is room for more
	}
}

// await waits for the report of a state. An end that says that it failed is an
// error.
func (c *perfCall) await(ctx context.Context, state string, patience time.Duration) (api.PerfReport, error) {
	name := perfName(c.who)
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		select {
		case r := <-c.reports:
			c.done = c.done || r.State == api.PerfDone
			if r.Error != "" {
				return r, fmt.Errorf("%s: %s", name, r.Error)
			}
			if r.State == state {
				return r, nil
			}
			if c.done {
				return r, fmt.Errorf("%s was done before it was %s", name, state)
			}
		case <-ctx.Done():
			return api.PerfReport{}, ctx.Err()
		case <-timeout.C:
			return api.PerfReport{}, fmt.Errorf("%s did not answer within %v; is kohaku there as new as here?", name, patience)
		}
	}
}

func perfName(runner string) string {
	if runner == "" {
		return "the Host"
	}
	return "runner " + runner
}
