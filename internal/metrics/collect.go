// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"kohaku/engine"
)

// Collect has each scrape ask for one snapshot. Call it once.
func (s *Set) Collect(snapshot func() Snapshot) {
	if s != nil {
		s.registry.MustRegister(collector(snapshot))
	}
}

type collector func() Snapshot

func desc(subsystem, name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, labels, nil)
}

var (
	problems = desc("", "problems", "What is wrong with the daemon right now, as kohaku status lists it.")

	firewallRepairs = desc("firewall", "repairs_total", "Times that the daemon found its firewall rules gone or displaced, and put them back.")

	tunnelUp       = desc("tunnel", "up", "1 while the tunnel carries frames, 0 when its device is dead.", "device", "runner")
	receivedFrames = desc("tunnel", "receive_frames_total", "Inner frames that came from the peer and were passed to the device; what arrives merged counts as the frames that were on the wire.", "device", "runner")
	receivedBytes  = desc("tunnel", "receive_bytes_total", "Bytes of inner frames that came from the peer, Ethernet headers included; bytes are counted alike both ways.", "device", "runner")
	sentFrames     = desc("tunnel", "transmit_frames_total", "Inner frames that were sent to the peer.", "device", "runner")
	sentBytes      = desc("tunnel", "transmit_bytes_total", "Bytes of inner frames that were sent to the peer, Ethernet headers included; bytes are counted alike both ways.", "device", "runner")
	tunnelDrops    = desc("tunnel", "dropped_frames_total", "Frames that the tunnel did not carry, either way, by reason.", "device", "runner", "reason")

	engineDrops   = desc("engine", "dropped_datagrams_total", "Datagrams received that belong to no tunnel, by reason.", "reason")
	engineTunnels = desc("engine", "tunnels", "Tunnels that there are.")
	engineWorkers = desc("engine", "workers", "Threads that carry frames.")
	engineOffload = desc("engine", "offload_enabled", "1 while the kernel's offload is in use on the underlay's sockets.", "offload")
	socketDrops   = desc("engine", "socket_dropped_datagrams_total", "Datagrams that the kernel dropped because the receive buffers of the VXLAN port were full.")

	// Batches: the sum over the count is what one call moves on average.
	readBatch    = desc("engine", "read_frames", "Frames taken from devices; count: visits to queues that found some. A super-frame is one.")
	sendBatch    = desc("engine", "send_datagrams", "Datagrams sent; count: system calls for that. More than one per call with UDP_SEGMENT.")
	receiveBatch = desc("engine", "receive_messages", "Messages received; count: system calls for that.")
	segmentBatch = desc("engine", "receive_segments", "Datagrams received; count: messages that they came in. More than one per message with UDP_GRO.")
	writeBatch   = desc("engine", "write_frames", "Frames passed to devices; count: system calls for that. More than one per call where frames were merged.")
	blocked      = desc("engine", "send_blocked_total", "Sends that met a full socket buffer (EAGAIN) and had to wait.")
	blockedTime  = desc("engine", "send_blocked_seconds_total", "Time that sends waited for room in a socket buffer.")
	waits        = desc("engine", "waits_total", "Times that a worker looked for something to do.")

	allocations  = desc("host", "allocations", "Allocations of runner ids, by whether the Runner is active.", "state")
	availableIDs = desc("host", "available_ids", "Runner ids that are free.")
	maxRunners   = desc("host", "max_runners", "Runner ids that the overlay's subnet has room for.")
	runnerActive = desc("host", "runner_active", "1 while the Runner's heartbeats arrive in time.", "runner")
	heartbeatAge = desc("host", "runner_heartbeat_age_seconds", "Time since the Runner's last heartbeat; absent until the first since the Host started.", "runner")

	joined    = desc("runner", "joined", "1 while the Host answers this Runner's registrations and heartbeats.")
	answerAge = desc("runner", "host_answer_age_seconds", "Time since the Host's last answer to this Runner; absent until the first.")
)

// Describe says nothing, which makes the collector an unchecked one: what it has
// depends on the daemon.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := c()
	e := emitter(ch)
	e.gauge(problems, float64(s.Problems))
	if s.FirewallRepairs != nil {
		e.counter(firewallRepairs, float64(*s.FirewallRepairs))
	}
	for _, t := range s.Tunnels {
		e.tunnel(t)
	}
	if s.Engine != nil {
		e.engine(s)
	}
	if s.Host != nil {
		e.host(s.Host)
	}
	if s.Runner != nil {
		e.gauge(joined, b2f(s.Runner.Joined))
		if s.Runner.Age >= 0 {
			e.gauge(answerAge, s.Runner.Age.Seconds())
		}
	}
}

type emitter chan<- prometheus.Metric

func (e emitter) gauge(d *prometheus.Desc, v float64, labels ...string) {
	e <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (e emitter) counter(d *prometheus.Desc, v float64, labels ...string) {
	e <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

// batch is a summary without quantiles: how much, in how many calls.
func (e emitter) batch(d *prometheus.Desc, sum, count uint64) {
	e <- prometheus.MustNewConstSummary(d, count, float64(sum), nil)
}

func (e emitter) tunnel(t Tunnel) {
	c := t.Counters
	e.gauge(tunnelUp, b2f(t.Err == ""), t.Device, t.Runner)
	e.counter(receivedFrames, float64(c.RxFrames), t.Device, t.Runner)
	e.counter(receivedBytes, float64(c.RxBytes), t.Device, t.Runner)
	e.counter(sentFrames, float64(c.TxFrames), t.Device, t.Runner)
	e.counter(sentBytes, float64(c.TxBytes), t.Device, t.Runner)
	// All reasons, also those never met: a rate needs a zero to start from.
	for _, d := range engine.Drops() {
		if n := c.Drops[d.String()]; n > 0 || d.OfTunnel() {
			e.counter(tunnelDrops, float64(n), t.Device, t.Runner, d.String())
		}
	}
}

func (e emitter) engine(s Snapshot) {
	for _, d := range engine.Drops() {
		if n := s.Engine.Drops[d.String()]; n > 0 || !d.OfTunnel() {
			e.counter(engineDrops, float64(n), d.String())
		}
	}
	e.gauge(engineTunnels, float64(s.Engine.Tunnels))
	e.gauge(engineWorkers, float64(s.Engine.Workers))
	e.gauge(engineOffload, b2f(s.Engine.UDPGSO), "udp_gso")
	e.gauge(engineOffload, b2f(s.Engine.UDPGRO), "udp_gro")
	if s.SocketDrops != nil {
		e.counter(socketDrops, float64(*s.SocketDrops))
	}
	g := s.Engine.Stages
	e.batch(readBatch, g.FramesRead, g.Reads)
	e.batch(sendBatch, g.Sent, g.Sends)
	e.batch(receiveBatch, g.Messages, g.Receives)
	e.batch(segmentBatch, g.Received, g.Messages)
	e.batch(writeBatch, g.Written, g.Writes)
	e.counter(blocked, float64(g.SendsBlocked))
	e.counter(blockedTime, float64(g.BlockedTime)/1e9)
	e.counter(waits, float64(g.Waits))
}

func (e emitter) host(h *Host) {
	active := 0
	for _, m := range h.Members {
		if m.Active {
			active++
		}
		e.gauge(runnerActive, b2f(m.Active), m.Name)
		if m.Age >= 0 {
			e.gauge(heartbeatAge, m.Age.Seconds(), m.Name)
		}
	}
	e.gauge(allocations, float64(active), "active")
	e.gauge(allocations, float64(len(h.Members)-active), "inactive")
	e.gauge(availableIDs, float64(h.AvailableIDs))
	e.gauge(maxRunners, float64(h.MaxRunners))
}

func b2f(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
