// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/perf/iperf"
)

// stream is one data connection. Its worker alone uses the socket; everybody
// else sees the counters.
type stream struct {
	id     int
	sender bool
	sock   *sock
	n      counters

	base  snapshot // at the end of the omitted part
	prev  snapshot // at the last interval's end
	rtts  rttStats
	tcpOK bool // the kernel answers TCP_INFO and this end sends

	resetJitter atomic.Bool // the omitted part is over: jitter starts anew
}

// number is what iperf3 calls a stream's socket: its descriptor, if it has one.
func (s *stream) number() int {
	if s.sock.fd < 0 {
		return int(s.id)
	}
	return s.sock.fd
}

// counters are written by a stream's worker and read by the reporter.
type counters struct {
	bytes    atomic.Int64
	packets  atomic.Int64 // UDP: sent, or the highest sequence number received
	received atomic.Int64 // UDP datagrams that arrived
	lost     atomic.Int64
	reorder  atomic.Int64
	jitter   atomic.Uint64 // bits of a float64, seconds
	requests atomic.Int64
	_        [64]byte // the next stream's counters are on another cache line
}

// publish makes a receiver's tracker visible.
func (c *counters) publish(t *iperf.Tracker) {
	c.packets.Store(int64(min(t.Highest, math.MaxInt64)))
	c.received.Store(int64(t.Received))
	c.lost.Store(int64(min(t.Lost, math.MaxInt64)))
	c.reorder.Store(int64(t.OutOfOrder))
	c.jitter.Store(math.Float64bits(t.Jitter))
}

// snapshot is a stream's counters at one moment.
type snapshot struct {
	bytes, packets, received, lost, reorder, requests, retrans int64
	jitter                                                     float64
	tcp                                                        TCPState
}

// take reads the counters and, for a sending TCP stream, the kernel's view.
func (s *stream) take() snapshot {
	v := snapshot{
		bytes: s.n.bytes.Load(), packets: s.n.packets.Load(), received: s.n.received.Load(),
		lost: s.n.lost.Load(), reorder: s.n.reorder.Load(), requests: s.n.requests.Load(),
		jitter: math.Float64frombits(s.n.jitter.Load()),
	}
	if s.tcpOK {
		if t, ok := tcpState(s.sock.fd); ok {
			v.tcp, v.retrans = t, t.Retrans
			s.rtts.add(t)
		}
	}
	return v
}

// diff gives what happened between two snapshots, over the given time.
func (v snapshot) diff(from snapshot, seconds float64) Totals {
	return Totals{
		Seconds: seconds, Bytes: v.bytes - from.bytes, Packets: v.packets - from.packets,
		Datagrams: v.received - from.received,
		// A loss that a late datagram gave back may belong to an earlier interval.
		Lost: max(v.lost-from.lost, 0), OutOfOrder: v.reorder - from.reorder,
		Jitter: v.jitter, Retransmits: v.retrans - from.retrans,
	}
}

// rttStats collects what the intervals saw of a TCP stream.
type rttStats struct {
	min, max, sum   time.Duration
	n               int64
	window, peerWin int64
}

func (r *rttStats) add(t TCPState) {
	if r.n == 0 || t.RTT < r.min {
		r.min = t.RTT
	}
	r.max = max(r.max, t.RTT)
	r.sum += t.RTT
	r.n++
	r.window = max(r.window, t.Window)
	r.peerWin = max(r.peerWin, t.PeerWin)
}

func (r *rttStats) mean() time.Duration {
	if r.n == 0 {
		return 0
	}
	return r.sum / time.Duration(r.n)
}

// tcpState asks the kernel about a TCP socket.
func tcpState(fd int) (TCPState, bool) {
	i, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return TCPState{}, false
	}
	return TCPState{
		Window:  int64(i.Snd_cwnd) * int64(i.Snd_mss),
		PeerWin: int64(i.Snd_wnd),
		RTT:     time.Duration(i.Rtt) * time.Microsecond,
		RTTVar:  time.Duration(i.Rttvar) * time.Microsecond,
		PathMTU: int64(i.Pmtu),
		Retrans: int64(i.Total_retrans),
	}, true
}
