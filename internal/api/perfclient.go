// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// perfSlack is what a step takes beside its measurement at most: to reach both
// ends, to connect over a path that may be slow, and to collect results.
const perfSlack = 40 * time.Second

// OpenPerf begins a session of measurements. Another one under way is answered
// with 409.
func (c *Client) OpenPerf(ctx context.Context) (PerfSession, error) {
	var s PerfSession
	err := c.call(ctx, "begin to measure", http.MethodPost, PathPerfSession, nil, &s)
	return s, err
}

// Perf carries out one step. It takes as long as the step.
func (c *Client) Perf(ctx context.Context, token string, q PerfStep) (PerfStepAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(q.Seconds*float64(time.Second))+perfSlack)
	defer cancel()
	var a PerfStepAnswer
	err := c.wait(ctx, "measure", http.MethodPost, PathPerfSession+"/"+url.PathEscape(token), q, &a)
	return a, err
}

// ClosePerf ends a session and all that was opened for it.
func (c *Client) ClosePerf(ctx context.Context, token string) error {
	var ok PerfOK
	return c.call(ctx, "end the measurement", http.MethodDelete, PathPerfSession+"/"+url.PathEscape(token), nil, &ok)
}

// PerfTasks waits up to PerfHold for something that this Runner is to do.
func (c *Client) PerfTasks(ctx context.Context, name string, p PerfPoll) ([]PerfTask, error) {
	ctx, cancel := context.WithTimeout(ctx, PerfHold+CallTimeout)
	defer cancel()
	var t PerfTasks
	err := c.wait(ctx, "ask the Host for measurements", http.MethodPost, PathPerfTasks+url.PathEscape(name), p, &t)
	return t.Tasks, err
}

// PerfReport tells what came of a task.
func (c *Client) PerfReport(ctx context.Context, name string, r PerfReport) error {
	var ok PerfOK
	return c.call(ctx, "report a measurement to the Host", http.MethodPost, PathPerfReport+url.PathEscape(name), r, &ok)
}
