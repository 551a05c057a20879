// SPDX-License-Identifier: Apache-2.0

// Package path measures a way through the overlay of a running cluster against the
// underlay below it, and says in one sentence where the time goes.
//
//	runner A --- Host                 one hop
//	runner A --- Host --- runner B    through the Host
//
// The machines measure and watch themselves, asked by the Host (package
// perf/path/end); what to measure and what follows from it is decided here. The
// verdict is a pure function of the evidence (verdict.go).
package path

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kohaku/internal/api"
)

// Host is the Host's API as far as it is needed; *api.Client has it.
type Host interface {
	OpenPerf(context.Context) (api.PerfSession, error)
	Perf(ctx context.Context, token string, q api.PerfStep) (api.PerfStepAnswer, error)
	ClosePerf(ctx context.Context, token string) error
}

// Options say what to measure. Zero fields mean what stands behind them.
type Options struct {
	From    string        // runner, required
	To      string        // runner; empty: the Host
	Streams int           // 4; at 1 there is nothing to compare one flow with
	Time    time.Duration // 2 s, of each test
	Reverse bool          // To sends
	// OnStep is called before each test and, with its figures, after it.
	OnStep func(Progress)
}

// Progress is how far it is.
type Progress struct {
	Step, Steps int // from 1
	Test        Test
	Done        bool
}

// Test is one measurement of one part of the way.
type Test struct {
	From    string          `json:"from"` // runner; empty: the Host
	To      string          `json:"to"`
	Network string          `json:"network"` // api.PerfUnderlay, api.PerfOverlay
	Mode    string          `json:"mode"`    // api.PerfTCP, api.PerfRoundTrip
	Flows   int             `json:"flows"`
	Figures api.PerfFigures `json:"figures"`
	// Seen is what the machines saw of themselves meanwhile; the Host is there even
	// where it is not on the way.
	Seen []api.PerfSeen `json:"seen"`
}

// Report is all that was measured, and what follows.
type Report struct {
	Started time.Time `json:"started"`
	From    string    `json:"from"`
	To      string    `json:"to"` // empty: the Host
	Reverse bool      `json:"reverse"`
	Tests   []Test    `json:"tests"`
	// Share is what the overlay gives of the underlay with the most flows, the
	// slowest part of the underlay on the overlay's way being the measure.
	Share float64 `json:"share"`
	// LatencyOverhead is in microseconds, of a round trip's median, against the
	// underlay between the same two ends.
	LatencyOverhead float64 `json:"latency_overhead_us"`
	Verdict         Verdict `json:"verdict"`
}

// Check fills in defaults and refuses what cannot be measured.
func (o *Options) Check() error {
	if o.Streams == 0 {
		o.Streams = 4
	}
	if o.Time == 0 {
		o.Time = 2 * time.Second
	}
	switch s := o.Time.Seconds(); {
	case o.From == "":
		return errors.New("no runner to measure from")
	case o.From == o.To:
		return fmt.Errorf("from %s to itself: a path has two ends", o.From)
	case o.Streams < 1 || o.Streams > api.MaxPerfStreams:
		return fmt.Errorf("%d flows: give 1 to %d", o.Streams, api.MaxPerfStreams)
	case s < api.MinPerfSeconds || s > api.MaxPerfSeconds:
		return fmt.Errorf("%v for each test: give %v to %d seconds", o.Time, api.MinPerfSeconds, api.MaxPerfSeconds)
	}
	return nil
}

// Plan lists the tests. Underlay and overlay take turns, so that a machine that
// gets busier meanwhile does not speak for one of them.
func (o Options) Plan() []Test {
	var all []Test
	add := func(from, to, network, mode string, flows int) {
		all = append(all, Test{From: from, To: to, Network: network, Mode: mode, Flows: flows})
	}
	if o.To != "" {
		// The overlay's way leads through the Host: what it can have of the
		// underlay is what its two parts give, not what the direct way gives.
		add(o.From, "", api.PerfUnderlay, api.PerfTCP, o.Streams)
		add("", o.To, api.PerfUnderlay, api.PerfTCP, o.Streams)
	}
	for _, flows := range []int{1, o.Streams} {
		if flows == 1 || o.Streams > 1 {
			add(o.From, o.To, api.PerfUnderlay, api.PerfTCP, flows)
			add(o.From, o.To, api.PerfOverlay, api.PerfTCP, flows)
		}
		if o.Streams == 1 {
			break
		}
	}
	add(o.From, o.To, api.PerfUnderlay, api.PerfRoundTrip, 1)
	add(o.From, o.To, api.PerfOverlay, api.PerfRoundTrip, 1)
	return all
}

// closing bounds how long the Host may take to hear that all is over.
const closing = 3 * time.Second

// Run measures and judges. When a test fails or ctx ends, the Report holds what was
// measured until then, without a verdict.
func Run(ctx context.Context, host Host, o Options) (*Report, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	session, err := host.OpenPerf(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		_ = host.ClosePerf(ctx, session.Token) // it ends by itself, too
	}()
	plan := o.Plan()
	r := &Report{Started: time.Now(), From: o.From, To: o.To, Reverse: o.Reverse, Tests: []Test{}}
	show := func(p Progress) {
		if o.OnStep != nil {
			p.Steps = len(plan)
			o.OnStep(p)
		}
	}
	for i, t := range plan {
		show(Progress{Step: i + 1, Test: t})
		a, err := host.Perf(ctx, session.Token, api.PerfStep{
			From: t.From, To: t.To, Network: t.Network, Mode: t.Mode, Streams: t.Flows,
			Seconds: o.Time.Seconds(), Reverse: o.Reverse && t.Mode == api.PerfTCP,
		})
		if err != nil {
			return r, err
		}
		t.Figures, t.Seen = a.Figures, a.Seen
		r.Tests = append(r.Tests, t)
		show(Progress{Step: i + 1, Test: t, Done: true})
	}
	e := Gather(r)
	r.Share, r.LatencyOverhead = e.Share(), e.LatencyOverhead()
	r.Verdict = Judge(e)
	return r, nil
}

// Name is a runner's, or the Host's for the empty name.
func Name(runner string) string {
	if runner == "" {
		return "the Host"
	}
	return runner
}
