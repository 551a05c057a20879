// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"net/netip"
	"time"

	"kohaku/perf/iperf"
)

// Version is how this program names itself to the other end and in its JSON.
const Version = "kohaku perf (iperf3 protocol)"

// Totals are the figures of one stream, or a sum over streams, as one end saw them.
type Totals struct {
	Seconds     float64 // the time they cover
	Bytes       int64   // payload
	Packets     int64   // UDP: datagrams sent, or up to the highest that arrived
	Datagrams   int64   // UDP, receiver: datagrams that arrived; 0 when a stock peer did not tell
	Lost        int64   // UDP, receiver
	OutOfOrder  int64   // UDP, receiver; a stock peer does not tell
	Jitter      float64 // UDP, receiver; seconds, the mean in a sum
	Retransmits int64   // TCP, sender; -1: unknown
}

// BitsPerSecond gives the rate of the payload.
func (t Totals) BitsPerSecond() float64 {
	if t.Seconds <= 0 {
		return 0
	}
	return float64(t.Bytes) * 8 / t.Seconds
}

// PacketsPerSecond gives the rate of datagrams that were sent or, at the
// receiver, that arrived.
func (t Totals) PacketsPerSecond() float64 {
	if t.Seconds <= 0 {
		return 0
	}
	return float64(t.arrived()) / t.Seconds
}

// arrived is the number of datagrams received, by the best information there is.
func (t Totals) arrived() int64 {
	if t.Datagrams > 0 {
		return t.Datagrams
	}
	return max(t.Packets-t.Lost, 0)
}

// LostPercent gives the share of datagrams lost, of those up to the highest that arrived.
func (t Totals) LostPercent() float64 {
	if t.Packets <= 0 {
		return 0
	}
	return 100 * float64(t.Lost) / float64(t.Packets)
}

// add sums figures of streams that ran side by side.
func (t *Totals) add(u Totals) {
	t.Seconds = max(t.Seconds, u.Seconds)
	t.Bytes += u.Bytes
	t.Packets += u.Packets
	t.Datagrams += u.Datagrams
	t.Lost += u.Lost
	t.OutOfOrder += u.OutOfOrder
	t.Jitter += u.Jitter
	if u.Retransmits < 0 {
		t.Retransmits = -1
	} else if t.Retransmits >= 0 {
		t.Retransmits += u.Retransmits
	}
}

// TCPState is what the kernel says of a sending TCP stream.
type TCPState struct {
	Window  int64 // congestion window, bytes
	PeerWin int64 // the receiver's window, bytes
	RTT     time.Duration
	RTTVar  time.Duration
	PathMTU int64
	Retrans int64 // since the connection's start
}

// StreamResult is one stream as both ends saw it.
type StreamResult struct {
	ID            int  // iperf3's number of the stream
	Socket        int  // a number for people to tell streams apart
	Sender        bool // this end sent
	Local, Remote netip.AddrPort
	Sent          Totals
	Received      Totals
	MaxWindow     int64 // TCP, this end sent: largest congestion window seen
	MaxPeerWindow int64
	MinRTT        time.Duration
	MaxRTT        time.Duration
	MeanRTT       time.Duration
}

// StreamInterval is one stream in one interval.
type StreamInterval struct {
	ID     int
	Socket int
	Sender bool
	Totals
	TCP *TCPState // TCP, this end sent
}

// Interval is what happened between two reports.
type Interval struct {
	Start, End float64 // seconds since the test's start, or since the end of the omitted part
	Omitted    bool
	Streams    []StreamInterval
	Requests   int64 // RoundTrip and Connect: finished in this interval
}

// Sum adds up the streams that this end sends, or receives.
func (i *Interval) Sum(sender bool) Totals {
	var t Totals
	n := 0
	for _, s := range i.Streams {
		if s.Sender == sender {
			t.add(s.Totals)
			n++
		}
	}
	if n > 0 {
		t.Jitter /= float64(n)
	}
	return t
}

// Result is one finished, or interrupted, test.
type Result struct {
	Client  bool // this end was the client
	Cookie  string
	Version string
	Peer    netip.AddrPort // of the control connection
	Target  string         // client: what it was asked to connect to
	Started time.Time
	Params  iperf.Params // as agreed
	MSS     int          // of the control connection, bytes
	SndBuf  int          // of the first stream, bytes, as granted
	RcvBuf  int

	Streams   []StreamResult
	Intervals []Interval
	Latency   *Latency // RoundTrip and Connect, at the client

	CPU        ProcessCPU // this process
	RemoteCPU  ProcessCPU // the other end's process
	Machine    MachineCPU // this machine
	RemoteMach *iperf.MachineResult

	Congestion       string // TCP congestion control of this end
	RemoteCongestion string

	// Err is why the test ended early; the figures are then what was reached.
	Err error
}

// Sum adds up one direction as its sender and as its receiver saw it. sender
// names the direction: true is what this end sent.
func (r *Result) Sum(sender bool) (sent, received Totals) {
	n := 0
	for _, s := range r.Streams {
		if s.Sender != sender {
			continue
		}
		sent.add(s.Sent)
		received.add(s.Received)
		n++
	}
	if n > 0 {
		received.Jitter /= float64(n)
		sent.Jitter /= float64(n)
	}
	return sent, received
}

// Sends reports whether this end sent in the test.
func (r *Result) Sends() bool {
	return bool(r.Params.Bidirectional) || bool(r.Params.Reverse) != r.Client
}

// Receives reports whether this end received in the test.
func (r *Result) Receives() bool {
	return bool(r.Params.Bidirectional) || bool(r.Params.Reverse) == r.Client
}

// Delivered gives the payload that arrived, over both directions.
func (r *Result) Delivered() (bytes, datagrams int64) {
	for _, dir := range []bool{true, false} {
		_, recv := r.Sum(dir)
		bytes += recv.Bytes
		datagrams += recv.arrived()
	}
	return bytes, datagrams
}

// Mode gives what was measured.
func (r *Result) Mode() Mode { return Mode(r.Params.Mode()) }
