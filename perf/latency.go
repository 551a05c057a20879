// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency sums up the times of many requests.
type Latency struct {
	Count   int64   // requests answered
	Lost    int64   // UDP: not answered within a second; Connect: failed
	Late    int64   // UDP: answered, but after that
	Seconds float64 // the time in which they were made

	Min, Mean, StdDev, Max time.Duration
	P50, P90, P99, P999    time.Duration
}

// PerSecond gives the requests answered in a second.
func (l *Latency) PerSecond() float64 {
	if l.Seconds <= 0 {
		return 0
	}
	return float64(l.Count) / l.Seconds
}

// maxLatency is the longest time that a histogram tells from longer ones.
const maxLatency = time.Minute

// newHistogram makes a histogram of nanoseconds with three significant digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, maxLatency.Nanoseconds(), 3)
}

// record adds one time; longer ones count as maxLatency.
func record(h *hdrhistogram.Histogram, d time.Duration) {
	// The value is inside the histogram's range, so this cannot fail.
	_ = h.RecordValue(min(max(d, 1), maxLatency).Nanoseconds())
}

// summarize merges the histograms of several streams.
func summarize(hs []*hdrhistogram.Histogram, seconds float64) *Latency {
	all := newHistogram()
	for _, h := range hs {
		all.Merge(h)
	}
	at := func(q float64) time.Duration { return time.Duration(all.ValueAtQuantile(q)) }
	l := &Latency{
		Count: all.TotalCount(), Seconds: seconds,
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9),
	}
	if l.Count > 0 {
		l.Min, l.Max = time.Duration(all.Min()), time.Duration(all.Max())
		l.Mean, l.StdDev = time.Duration(all.Mean()), time.Duration(all.StdDev())
	}
	return l
}
