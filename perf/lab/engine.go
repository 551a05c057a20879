// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"io"

	"kohaku/engine"
)

// engineCounters sums up what our engines did, over all machines, so that a
// figure can be read together with how the work was batched.
type engineCounters struct {
	tx, rx, drops uint64 // frames
	stages        engine.Stages
	cpu           []float64 // seconds that each engine's process used
}

// counters asks the engines; one that does not answer counts nothing.
func (b *bench) counters() engineCounters {
	var c engineCounters
	for _, p := range b.engines {
		a, err := p.ask(request{Stats: true})
		if err != nil || a.Engine == nil {
			c.cpu = append(c.cpu, 0)
			continue // the measurement itself will say what is wrong
		}
		c.cpu = append(c.cpu, a.CPU)
		for _, t := range a.Tunnels {
			c.tx += t.Tx.Frames
			c.rx += t.Rx.Frames
			for _, n := range t.Drops {
				c.drops += n
			}
		}
		for _, n := range a.Engine.Drops {
			c.drops += n
		}
		s, t := &c.stages, a.Engine.Stages
		s.Reads += t.Reads
		s.FramesRead += t.FramesRead
		s.Sends += t.Sends
		s.Sent += t.Sent
		s.SendsBlocked += t.SendsBlocked
		s.BlockedTime += t.BlockedTime
		s.Receives += t.Receives
		s.Messages += t.Messages
		s.Received += t.Received
		s.Writes += t.Writes
		s.Written += t.Written
		s.Waits += t.Waits
	}
	return c
}

// stage is one figure of how our engines batched, by its name in a
// measurement's details.
type stage struct{ name, heading string }

// engineStages in the order of a frame's way.
var engineStages = []stage{
	{"engine_frames_per_read", "FRAMES/READ"},
	{"engine_datagrams_per_send", "DATAGRAMS/SEND"},
	{"engine_eagain_per_send", "EAGAIN/SEND"},
	{"engine_blocked_percent", "BLOCKED %"},
	{"engine_messages_per_receive", "MESSAGES/RECEIVE"},
	{"engine_datagrams_per_receive", "SEGMENTS/RECEIVE"},
	{"engine_merged_per_write", "MERGED/WRITE"},
	{"engine_reads_per_wait", "READS/WAIT"},
	{"engine_cpu_percent", "BUSIEST %"},
	{"engine_drops", "DROPS"},
}

// describe puts what happened since into a reading's details; wall is the time,
// in seconds, in which their path carried something.
func (c engineCounters) describe(since engineCounters, wall float64, detail map[string]float64) {
	share := func(part, of uint64) float64 {
		if of == 0 {
			return 0
		}
		return float64(part) / float64(of)
	}
	s, b := c.stages, since.stages
	sends, receives, writes := s.Sends-b.Sends, s.Receives-b.Receives, s.Writes-b.Writes
	detail["engine_tx_frames"] = float64(c.tx - since.tx)
	detail["engine_rx_frames"] = float64(c.rx - since.rx)
	detail["engine_frames_per_read"] = share(s.FramesRead-b.FramesRead, s.Reads-b.Reads)
	detail["engine_datagrams_per_send"] = share(s.Sent-b.Sent, sends)
	detail["engine_eagain_per_send"] = share(s.SendsBlocked-b.SendsBlocked, sends)
	detail["engine_blocked_percent"] = float64(s.BlockedTime-b.BlockedTime) / 1e9 / wall * 100
	detail["engine_messages_per_receive"] = share(s.Messages-b.Messages, receives)
	detail["engine_datagrams_per_receive"] = share(s.Received-b.Received, receives)
	detail["engine_merged_per_write"] = share(s.Written-b.Written, writes)
	detail["engine_reads_per_wait"] = share(s.Reads-b.Reads, s.Waits-b.Waits)
	detail["engine_drops"] = float64(c.drops - since.drops)
	busiest := 0.0
	for i := range c.cpu {
		if i < len(since.cpu) {
			busiest = max(busiest, (c.cpu[i]-since.cpu[i])/wall*100)
		}
	}
	detail["engine_cpu_percent"] = busiest
}

// WriteStages writes how our engines batched, one line for each measurement of
// theirs; nothing when there is none.
func (r *Report) WriteStages(w io.Writer) error {
	head := []string{"PROFILE", "TOPOLOGY", "WORKLOAD", "DATAPATH"}
	right := map[int]bool{}
	for _, s := range engineStages {
		right[len(head)] = true
		head = append(head, s.heading)
	}
	rows := [][]string{head}
	for _, m := range r.sorted() {
		if _, ours := m.Detail["engine_tx_frames"]; !ours {
			continue
		}
		row := []string{m.Profile, m.Topology, m.Workload, m.DataPath}
		for _, s := range engineStages {
			row = append(row, number(m.Detail[s.name]))
		}
		rows = append(rows, row)
	}
	if len(rows) == 1 {
		return nil
	}
	if _, err := fmt.Fprintln(w, "\nengine stages (all machines together; BUSIEST: the engine that used most processor)"); err != nil {
		return err
	}
	return writeColumns(w, rows, right)
}
