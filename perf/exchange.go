// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"kohaku/perf/iperf"
)

// fillOwn puts what this end saw into the result.
func (m *measurement) fillOwn() {
	for i, s := range m.streams {
		r := &m.res.Streams[i]
		t := m.last[i].diff(s.base, m.seconds)
		if s.sender {
			t.Jitter = 0
			if !s.tcpOK {
				t.Retransmits = -1
			}
			r.Sent = t
			r.MaxWindow, r.MaxPeerWindow = s.rtts.window, s.rtts.peerWin
			r.MinRTT, r.MaxRTT, r.MeanRTT = s.rtts.min, s.rtts.max, s.rtts.mean()
		} else {
			t.Retransmits = -1
			r.Received = t
		}
	}
	if bool(m.params.TCP) && len(m.streams) > 0 {
		if cc, err := unix.GetsockoptString(m.streams[0].sock.fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION); err == nil {
			m.res.Congestion = cc
		}
	}
}

// outgoing gives the results as the other end wants them.
func (m *measurement) outgoing() *iperf.Results {
	out := &iperf.Results{
		CPUTotal: iperf.Real(m.res.CPU.Total), CPUUser: iperf.Real(m.res.CPU.User), CPUSystem: iperf.Real(m.res.CPU.System),
		SenderHasRetransmits: -1,
		CongestionUsed:       m.res.Congestion,
		Streams:              []iperf.StreamResult{},
		Kohaku: &iperf.MachineResult{
			Busy: iperf.Real(m.res.Machine.Busy()), Elapsed: iperf.Real(m.res.Machine.Elapsed), CPUs: iperf.Number(m.res.Machine.CPUs),
		},
	}
	for i, s := range m.streams {
		v := m.last[i]
		r := iperf.StreamResult{
			ID: iperf.Number(s.id), Bytes: iperf.Number(v.bytes - s.base.bytes), Retransmits: -1,
			Jitter: iperf.Real(v.jitter), Errors: iperf.Number(v.lost), Packets: iperf.Number(v.packets),
			EndTime: iperf.Real(m.seconds),
		}
		if s.sender {
			out.SenderHasRetransmits = max(out.SenderHasRetransmits, 0)
			if s.tcpOK {
				out.SenderHasRetransmits = 1
				r.Retransmits = iperf.Number(v.retrans - s.base.retrans)
			}
		} else {
			r.OutOfOrder = iperf.Number(v.reorder - s.base.reorder)
			r.Datagrams = iperf.Number(v.received - s.base.received)
		}
		if m.params.Omitted() > 0 {
			lost, packets := iperf.Number(s.base.lost), iperf.Number(s.base.packets)
			r.OmittedErrors, r.OmittedPackets = &lost, &packets
		}
		out.Streams = append(out.Streams, r)
	}
	return out
}

// merge puts what the other end saw into the result. A stream that it does not
// mention keeps zeroes there.
func (m *measurement) merge(peer *iperf.Results) {
	m.res.RemoteCPU = ProcessCPU{float64(peer.CPUTotal), float64(peer.CPUUser), float64(peer.CPUSystem)}
	m.res.RemoteCongestion = printable(peer.CongestionUsed)
	m.res.RemoteMach = peer.Kohaku
	for i, s := range m.streams {
		p, ok := peer.Stream(s.id)
		if !ok {
			continue
		}
		t := Totals{
			Seconds: float64(p.EndTime - p.StartTime), Bytes: int64(p.Bytes), Packets: int64(p.Packets),
			Datagrams: int64(p.Datagrams), Lost: int64(p.Errors), OutOfOrder: int64(p.OutOfOrder),
			Jitter: float64(p.Jitter), Retransmits: int64(p.Retransmits),
		}
		if t.Seconds == 0 {
			t.Seconds = m.seconds // servers before 3.2 do not tell
		}
		if p.OmittedPackets != nil && p.OmittedErrors != nil {
			t.Packets -= int64(*p.OmittedPackets)
			t.Lost -= int64(*p.OmittedErrors)
		} else {
			// An older peer counts the omitted part in; its share is what this end saw.
			t.Packets -= s.base.packets
			t.Lost -= s.base.lost
		}
		t.Packets, t.Lost = max(t.Packets, 0), max(t.Lost, 0)
		r := &m.res.Streams[i]
		if s.sender {
			t.Retransmits = -1
			r.Received = t
		} else {
			t.Lost, t.Jitter, t.OutOfOrder = 0, 0, 0
			r.Sent = t
		}
	}
}

// printable keeps a peer's text harmless on a terminal and short.
func printable(s string) string {
	b := make([]byte, 0, 32)
	for i := 0; i < len(s) && len(b) < 32; i++ {
		if s[i] > 0x20 && s[i] < 0x7f {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// latency sums up what the probers saw.
func (m *measurement) latency() *Latency {
	hs := make([]*hdrhistogram.Histogram, 0, len(m.probers))
	for _, p := range m.probers {
		hs = append(hs, p.hist)
	}
	l := summarize(hs, m.seconds)
	for _, p := range m.probers {
		l.Lost += p.lost
		l.Late += p.late
	}
	return l
}
