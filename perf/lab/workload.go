// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"slices"
	"time"

	"kohaku/perf"
)

// Workload is one kind of load and the figure that it gives.
type Workload struct {
	Name   string
	Title  string
	Unit   string
	Lower  bool   // the smaller figure is the better one
	CPU    string // unit of the processor time
	config perf.ClientConfig
	read   func(*perf.Result) (Reading, error)
	// turn gives the figure of one turn, and of how much in all its time.
	turn func(sender, receiver perf.Count, length time.Duration) (value, amount float64)
}

// Reading is one measurement.
type Reading struct {
	Value float64 `json:"value"`
	// CPU is the processor time of the whole machine, all its parts included,
	// for what Workload.CPU says.
	CPU float64 `json:"cpu"`
	// Detail holds what else the workload saw, by names that carry their unit.
	Detail map[string]float64 `json:"detail,omitempty"`

	turns []float64 // the figure by turn; nil: it was measured in one piece
}

// workloads in the order in which they are measured and shown.
var workloads = []Workload{
	{
		Name: "tcp1", Title: "1 TCP stream", Unit: "Gbit/s", CPU: "s/Gbit",
		config: perf.ClientConfig{Streams: 1}, read: throughput, turn: gigabits,
	},
	{
		Name: "tcp4", Title: "4 TCP streams", Unit: "Gbit/s", CPU: "s/Gbit",
		config: perf.ClientConfig{Streams: 4}, read: throughput, turn: gigabits,
	},
	{
		Name: "udp64", Title: "UDP of 64 B, received", Unit: "kpps", CPU: "s/Mpacket",
		config: perf.ClientConfig{UDP: true, Length: 64, Wide: true}, read: packets, turn: datagrams,
	},
	{
		Name: "udp1400", Title: "UDP of 1400 B, received", Unit: "Gbit/s", CPU: "s/Gbit",
		config: perf.ClientConfig{UDP: true, Length: 1400, Wide: true}, read: throughput, turn: gigabits,
	},
	{
		Name: "rr", Title: "round trip, p50", Unit: "us", Lower: true, CPU: "s/Mrequest",
		config: perf.ClientConfig{UDP: true, Mode: perf.RoundTrip, Length: 64}, read: latency, turn: roundTrips,
	},
	{
		Name: "crr", Title: "TCP connections", Unit: "conn/s", CPU: "s/Mconn",
		config: perf.ClientConfig{Mode: perf.Connect}, read: connections, turn: requests,
	},
}

// Workloads lists the names that select workloads.
func Workloads() []string {
	names := make([]string, len(workloads))
	for i, w := range workloads {
		names[i] = w.Name
	}
	return names
}

// workload finds one by its name.
func workload(name string) (Workload, bool) {
	for _, w := range workloads {
		if w.Name == name {
			return w, true
		}
	}
	return Workload{}, false
}

var errNothing = errors.New("nothing arrived")

func throughput(r *perf.Result) (Reading, error) {
	_, got := r.Sum(true)
	if got.Bytes == 0 || got.Seconds == 0 {
		return Reading{}, errNothing
	}
	d := map[string]float64{}
	if r.Params.UDP {
		d["lost_percent"] = lost(r)
	} else if sent, _ := r.Sum(true); sent.Retransmits >= 0 {
		d["retransmits"] = float64(sent.Retransmits)
	}
	return Reading{Value: got.BitsPerSecond() / 1e9, CPU: r.Machine.PerGbit(got.Bytes), Detail: d}, nil
}

func packets(r *perf.Result) (Reading, error) {
	_, got := r.Sum(true)
	if got.Datagrams == 0 || got.Seconds == 0 {
		return Reading{}, errNothing
	}
	return Reading{
		Value: got.PacketsPerSecond() / 1e3, CPU: r.Machine.PerMillion(got.Datagrams),
		Detail: map[string]float64{"lost_percent": lost(r)},
	}, nil
}

// lost gives the share of what was sent and did not arrive, the tail included.
func lost(r *perf.Result) float64 {
	sent, got := r.Sum(true)
	if sent.Packets == 0 {
		return 0
	}
	return max(0, 100*(1-float64(got.Datagrams)/float64(sent.Packets)))
}

func latency(r *perf.Result) (Reading, error) {
	l := r.Latency
	if l == nil || l.Count == 0 {
		return Reading{}, errNothing
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return Reading{
		Value: us(l.P50), CPU: r.Machine.PerMillion(l.Count),
		Detail: map[string]float64{
			"p90_us": us(l.P90), "p99_us": us(l.P99), "p99_9_us": us(l.P999),
			"per_second": l.PerSecond(), "lost": float64(l.Lost),
		},
	}, nil
}

func connections(r *perf.Result) (Reading, error) {
	l := r.Latency
	if l == nil || l.Count == 0 {
		return Reading{}, errNothing
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return Reading{
		Value: l.PerSecond(), CPU: r.Machine.PerMillion(l.Count),
		Detail: map[string]float64{"p50_us": us(l.P50), "p99_us": us(l.P99), "failed": float64(l.Lost)},
	}, nil
}

func gigabits(_, got perf.Count, length time.Duration) (value, amount float64) {
	return float64(got.Bytes) * 8 / 1e9 / length.Seconds(), float64(got.AllBytes) * 8 / 1e9
}

func datagrams(_, got perf.Count, length time.Duration) (value, amount float64) {
	return float64(got.Items) / 1e3 / length.Seconds(), float64(got.AllItems) / 1e6
}

func roundTrips(made, _ perf.Count, _ time.Duration) (value, amount float64) {
	return float64(made.Median.Nanoseconds()) / 1e3, float64(made.AllItems) / 1e6
}

func requests(made, _ perf.Count, length time.Duration) (value, amount float64) {
	return float64(made.Items) / length.Seconds(), float64(made.AllItems) / 1e6
}

// sum gives a round's figure of those of turns: of rates the mean, so that a turn
// in which nothing arrived counts; of round trips the median of those that were
// made.
func (w Workload) sum(turns []float64) float64 {
	if w.Lower {
		return median(slices.DeleteFunc(slices.Clone(turns), func(v float64) bool { return v == 0 }))
	}
	total := 0.0
	for _, v := range turns {
		total += v
	}
	return total / float64(max(len(turns), 1))
}
