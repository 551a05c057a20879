// SPDX-License-Identifier: Apache-2.0

package path_test

import (
	"context"
	"errors"
	"testing"

	"kohaku/internal/api"
	"kohaku/perf/path"
)

// fakeHost answers steps without measuring anything.
type fakeHost struct {
	steps  []api.PerfStep
	closed int
	fail   int // at this step, from 1; 0: never
	busy   error
}

func (f *fakeHost) OpenPerf(context.Context) (api.PerfSession, error) {
	return api.PerfSession{Token: "T"}, f.busy
}

func (f *fakeHost) Perf(_ context.Context, token string, q api.PerfStep) (api.PerfStepAnswer, error) {
	f.steps = append(f.steps, q)
	if token != "T" || len(f.steps) == f.fail {
		return api.PerfStepAnswer{}, errors.New("refused")
	}
	a := api.PerfStepAnswer{Figures: api.PerfFigures{Bits: 1e9, P50: 100}, Seen: []api.PerfSeen{seen(q.From), seen(q.To)}}
	if q.Network == api.PerfOverlay {
		a.Figures = api.PerfFigures{Bits: 6e8, P50: 180}
	}
	return a, nil
}

func (f *fakeHost) ClosePerf(ctx context.Context, token string) error {
	f.closed++
	return ctx.Err()
}

func TestRun(t *testing.T) {
	f := &fakeHost{}
	var before, after int
	r, err := path.Run(t.Context(), f, path.Options{From: "r1", Reverse: true, OnStep: func(p path.Progress) {
		if p.Steps != 6 {
			t.Errorf("%d steps", p.Steps)
		}
		if p.Done {
			after = p.Step
		} else {
			before = p.Step
		}
	}})
	if err != nil || r.Verdict.Cause != path.Nothing || r.Share != 0.6 || r.LatencyOverhead != 80 {
		t.Errorf("report %+v, %v", r, err)
	}
	if before != 6 || after != 6 || f.closed != 1 {
		t.Errorf("before %d, after %d, closed %d", before, after, f.closed)
	}
	for _, q := range f.steps {
		if q.Reverse != (q.Mode == api.PerfTCP) || q.Seconds != 2 {
			t.Errorf("step %+v", q)
		}
	}
}

func TestRunEndsTheSession(t *testing.T) {
	f := &fakeHost{fail: 3}
	if r, err := path.Run(t.Context(), f, path.Options{From: "r1"}); err == nil || len(r.Tests) != 2 || f.closed != 1 {
		t.Errorf("report %+v, %v, closed %d", r, err, f.closed)
	}
	f = &fakeHost{busy: errors.New("busy")}
	if _, err := path.Run(t.Context(), f, path.Options{From: "r1"}); err == nil || len(f.steps) != 0 || f.closed != 0 {
		t.Errorf("%v, steps %v, closed %d", err, f.steps, f.closed)
	}
}
