// SPDX-License-Identifier: Apache-2.0

// Package metrics is what Prometheus gets to read of a daemon. Names, units and
// help texts follow its conventions (prometheus.io/docs/practices/naming); a test
// has promlint judge them.
//
// What can be read off the daemon's state is read when somebody asks, once per
// scrape; only latencies and actions are counted as they happen. Every label's
// values are few and known: reasons, calls, states, and the tunnels, of which there
// are as many as Runners.
package metrics

import (
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const namespace = "kohaku"

// Set is the metrics of one daemon. Its methods are safe for concurrent use, and
// those of a nil Set do nothing.
type Set struct {
	registry *prometheus.Registry
	served   *prometheus.HistogramVec // calls of our API
	made     *prometheus.HistogramVec // calls of the Host's API
	actions  *prometheus.CounterVec
}

// Version is what a build says of itself.
type Version struct{ Version, Go string }

// New makes the metrics of a daemon, "host" or "runner".
func New(daemon string, v Version) *Set {
	if v.Go == "" {
		v.Go = runtime.Version()
	}
	s := &Set{
		registry: prometheus.NewRegistry(),
		served: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: "api", Name: "request_duration_seconds", Buckets: latencies,
			Help: "Time to answer a call of the Host's API, by call and HTTP status code. Calls below /api/perf wait for measurements.",
		}, []string{"call", "code"}),
		made: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: "runner", Name: "host_request_duration_seconds", Buckets: latencies,
			Help: "Time until the Host's API had answered this Runner, by call and HTTP status code; code \"none\": no answer came.",
		}, []string{"call", "code"}),
		actions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: "reconcile", Name: "actions_total",
			Help: "Changes that the daemon made to this machine's devices, addresses, routes and kernel settings, by what was changed.",
		}, []string{"action"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: namespace, Name: "build_info", Help: "A constant 1; the labels tell the daemon, its version and its Go version.",
		ConstLabels: prometheus.Labels{"daemon": daemon, "version": v.Version, "goversion": v.Go},
	})
	build.Set(1)
	for _, a := range Actions {
		s.actions.WithLabelValues(a)
	}
	s.registry.MustRegister(build, s.actions,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if daemon == "runner" {
		s.registry.MustRegister(s.made)
	} else {
		s.registry.MustRegister(s.served)
	}
	return s
}

// latencies are bounds of histograms, in seconds.
var latencies = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// Handler answers GET /metrics.
func (s *Set) Handler() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		// What can be told is told; the rest is said in the log of whoever asks.
		ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, EnableOpenMetrics: true,
	})
}
