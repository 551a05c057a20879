// SPDX-License-Identifier: Apache-2.0

// Package demo shows a person the overlay at work on one machine. In a private
// lab it makes a Host, two Runners and a machine outside of the overlay, each a
// network namespace on one switch, starts the real daemons there, attaches two
// containers, and tries everything that the overlay is for:
//
//	container-1                                      container-2
//	 10.1.0.2                                         10.2.0.2
//	    | veth                                            | veth
//	+---+----------+        +--------------+        +-----+--------+
//	| runner-1     |        | host         |        | runner-2     |     +---------+
//	| kohaku runner|        | kohaku host  |        | kohaku runner|     | outside |
//	+---+----------+        +------+-------+        +-----+--------+     +----+----+
//	    | 192.0.2.2                | 192.0.2.1            | 192.0.2.3         | 192.0.2.4
//	+---+--------------------------+----------------------+-------------------+----+
//	|                                   switch                                     |
//	+------------------------------------------------------------------------------+
//
// The caller enters the lab (lab.Enter) before Run: all that is made here is
// gone when the process ends, however it ends.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"kohaku/internal/lab"
)

// Options says how to run. Program and Progress are required.
type Options struct {
	// Program is the file with kohaku in it, normally /proc/self/exe: the daemons
	// and `status` are this program itself.
	Program string
	// Progress is where a person watches.
	Progress io.Writer
	Colour   bool // use colour on Progress
	Redraw   bool // Progress is a terminal: the line of a running step may be replaced
	// Keep leaves all up after the last step, until the context ends.
	Keep bool
	// Bytes and Budget bound the TCP transfer; zero means 1 GiB and 5 s.
	Bytes  int64
	Budget time.Duration
}

// Step is one thing that was tried.
type Step struct {
	Name    string   `json:"name"`
	OK      bool     `json:"ok"`
	Seconds float64  `json:"seconds"`
	Detail  []string `json:"detail"` // what was seen, as lines for a person
	Error   string   `json:"error,omitempty"`
}

// Result is all that happened.
type Result struct {
	OK       bool            `json:"ok"` // every step held
	Seconds  float64         `json:"seconds"`
	Steps    []Step          `json:"steps"`
	Pings    []PingResult    `json:"pings"`
	SeenFrom string          `json:"seen_from,omitempty"` // the address that the outside sees a container use
	Transfer *TransferResult `json:"transfer,omitempty"`
	Outer    []Outer         `json:"outer"` // the same echo request on its two tunnels, as on the underlay
	Status   json.RawMessage `json:"status,omitempty"`
}

// run is one demonstration under way.
type run struct {
	Options
	result   Result
	show     *progress
	net      *lab.Net
	underlay *lab.Underlay
	dir      string // files of the daemons, in the lab's memory
	daemons  []*daemon
	notify   *notifySocket
	ends     []*container
	started  time.Time
}

// errSetUp marks the failure of a step without which the others mean nothing.
var errSetUp = errors.New("set-up failed")

// Run demonstrates. The error is one of the demonstration itself: a context
// that ended, or not being in a lab. A step that did not hold is in the Result.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Bytes == 0 {
		o.Bytes = 1 << 30
	}
	if o.Budget == 0 {
		o.Budget = 5 * time.Second
	}
	r := &run{Options: o, show: newProgress(o), started: time.Now()}
	r.result = Result{OK: true, Steps: []Step{}, Pings: []PingResult{}, Outer: []Outer{}}
	net, err := lab.NewNet()
	if err != nil {
		return r.result, err
	}
	r.net = net
	defer r.tearDown()
	r.dir, err = os.MkdirTemp("", "kohaku-demo-")
	if err != nil {
		return r.result, fmt.Errorf("directory for the daemons: %w", err)
	}

	err = r.steps(ctx)
	if ctx.Err() != nil {
		return r.finish(), context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, errSetUp) {
		return r.finish(), err
	}
	result := r.finish()
	r.show.summary(result)
	if o.Keep {
		r.show.lines(r.keepText())
		<-ctx.Done()
		r.show.lines([]string{"", "Ending it; nothing stays behind."})
	}
	return result, nil
}

func (r *run) finish() Result {
	r.result.Seconds = time.Since(r.started).Seconds()
	return r.result
}

// steps runs everything in order. Set-up steps end it when they fail, checks do
// not: a person wants to know what else does not work.
func (r *run) steps(ctx context.Context) error {
	r.show.picture()
	setUp := []struct {
		name string
		do   func(context.Context) ([]string, error)
	}{
		{"machines on one switch", r.makeMachines},
		{"kohaku host", r.startHost},
		{"kohaku runner, twice", r.startRunners},
		{"a container on each Runner", r.attachContainers},
	}
	for _, s := range setUp {
		if !r.step(ctx, s.name, s.do) {
			return errSetUp
		}
	}
	checks := []struct {
		name string
		do   func(context.Context) ([]string, error)
	}{
		{"ping container-1 > container-2", r.pingContainer},
		{"ping container-1 > the Host's overlay address", r.pingHost},
		{"container-1 > outside, masqueraded", r.reachOutside},
		{"TCP container-1 > container-2", r.transferTCP},
		{"the underlay's view of one ping", r.watchUnderlay},
		{"no kernel VXLAN device", r.noKernelVXLAN},
		{"kohaku status", r.runStatus},
	}
	for _, s := range checks {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.step(ctx, s.name, s.do)
	}
	if !r.Keep && ctx.Err() == nil {
		r.step(ctx, "daemons end on SIGTERM", r.stopDaemons)
	}
	return nil
}

// step runs one step, shows and records it.
func (r *run) step(ctx context.Context, name string, do func(context.Context) ([]string, error)) bool {
	r.show.begin(name)
	start := time.Now()
	detail, err := do(ctx)
	if ctx.Err() != nil {
		// Whatever the step says now, it says because it was stopped.
		r.result.OK = false
		r.show.interrupted(name)
		return false
	}
	s := Step{Name: name, OK: err == nil, Seconds: time.Since(start).Seconds(), Detail: detail}
	if s.Detail == nil {
		s.Detail = []string{}
	}
	if err != nil {
		s.Error = err.Error()
		r.result.OK = false
	}
	r.result.Steps = append(r.result.Steps, s)
	r.show.end(s)
	if err != nil {
		r.show.lines(r.lastLogs())
	}
	return err == nil
}

// tearDown ends what runs. The lab's end would do it as well, less orderly.
func (r *run) tearDown() {
	for _, d := range r.daemons {
		d.kill()
	}
	if r.notify != nil {
		r.notify.close()
	}
	// What is left open or mounted in memory ends with the lab, now.
	_ = r.net.Close()
	_ = os.RemoveAll(r.dir)
}
