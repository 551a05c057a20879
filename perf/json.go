// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// The JSON below has iperf3's names and nesting, so that what reads one reads
// the other. What iperf3 does not have stands under "kohaku".

type jsonDoc struct {
	Start     jsonStart      `json:"start"`
	Intervals []jsonInterval `json:"intervals"`
	End       jsonEnd        `json:"end"`
	Kohaku    *jsonKohaku    `json:"kohaku,omitempty"`
	Error     string         `json:"error,omitempty"`
}

type jsonStart struct {
	Connected          []jsonSocket  `json:"connected"`
	Version            string        `json:"version"`
	SystemInfo         string        `json:"system_info"`
	Timestamp          jsonTime      `json:"timestamp"`
	ConnectingTo       *jsonHost     `json:"connecting_to,omitempty"`
	AcceptedConnection *jsonHost     `json:"accepted_connection,omitempty"`
	Cookie             string        `json:"cookie"`
	TCPMSS             int           `json:"tcp_mss_default,omitempty"`
	TargetBitrate      int64         `json:"target_bitrate"`
	SockBufsize        int64         `json:"sock_bufsize"`
	SndBuf             int           `json:"sndbuf_actual"`
	RcvBuf             int           `json:"rcvbuf_actual"`
	TestStart          jsonTestStart `json:"test_start"`
}

type jsonSocket struct {
	Socket     int    `json:"socket"`
	LocalHost  string `json:"local_host"`
	LocalPort  uint16 `json:"local_port"`
	RemoteHost string `json:"remote_host"`
	RemotePort uint16 `json:"remote_port"`
}

type jsonTime struct {
	Time     string `json:"time"`
	Timesecs int64  `json:"timesecs"`
}

type jsonHost struct {
	Host string `json:"host"`
	Port uint16 `json:"port"`
}

type jsonTestStart struct {
	Protocol      string `json:"protocol"`
	Streams       int64  `json:"num_streams"`
	Block         int64  `json:"blksize"`
	Omit          int64  `json:"omit"`
	Duration      int64  `json:"duration"`
	Bytes         int64  `json:"bytes"`
	Blocks        int64  `json:"blocks"`
	Reverse       int    `json:"reverse"`
	Bidir         int    `json:"bidir"`
	TOS           int64  `json:"tos"`
	TargetBitrate int64  `json:"target_bitrate"`
}

// jsonFigures is a stream or a sum, in an interval or at the end. The pointers
// are there for the protocols and ends that they apply to.
type jsonFigures struct {
	Socket      *int     `json:"socket,omitempty"`
	Start       float64  `json:"start"`
	End         float64  `json:"end"`
	Seconds     float64  `json:"seconds"`
	Bytes       int64    `json:"bytes"`
	Bits        float64  `json:"bits_per_second"`
	Retransmits *int64   `json:"retransmits,omitempty"`
	SndCwnd     *int64   `json:"snd_cwnd,omitempty"`
	SndWnd      *int64   `json:"snd_wnd,omitempty"`
	RTT         *int64   `json:"rtt,omitempty"`
	RTTVar      *int64   `json:"rttvar,omitempty"`
	PMTU        *int64   `json:"pmtu,omitempty"`
	MaxSndCwnd  *int64   `json:"max_snd_cwnd,omitempty"`
	MaxSndWnd   *int64   `json:"max_snd_wnd,omitempty"`
	MaxRTT      *int64   `json:"max_rtt,omitempty"`
	MinRTT      *int64   `json:"min_rtt,omitempty"`
	MeanRTT     *int64   `json:"mean_rtt,omitempty"`
	JitterMs    *float64 `json:"jitter_ms,omitempty"`
	Lost        *int64   `json:"lost_packets,omitempty"`
	Packets     *int64   `json:"packets,omitempty"`
	LostPercent *float64 `json:"lost_percent,omitempty"`
	OutOfOrder  *int64   `json:"out_of_order,omitempty"`
	Omitted     *bool    `json:"omitted,omitempty"`
	Sender      bool     `json:"sender"`
}

type jsonInterval struct {
	Streams  []jsonFigures `json:"streams"`
	Sum      *jsonFigures  `json:"sum,omitempty"`
	SumBidir *jsonFigures  `json:"sum_bidir_reverse,omitempty"`
	Requests int64         `json:"requests,omitempty"`
}

type jsonEndStream struct {
	Sender   *jsonFigures `json:"sender,omitempty"`
	Receiver *jsonFigures `json:"receiver,omitempty"`
	UDP      *jsonFigures `json:"udp,omitempty"`
}

type jsonEnd struct {
	Streams          []jsonEndStream `json:"streams"`
	Sum              *jsonFigures    `json:"sum,omitempty"`
	SumSent          *jsonFigures    `json:"sum_sent,omitempty"`
	SumReceived      *jsonFigures    `json:"sum_received,omitempty"`
	SumBidir         *jsonFigures    `json:"sum_bidir_reverse,omitempty"`
	SumSentBidir     *jsonFigures    `json:"sum_sent_bidir_reverse,omitempty"`
	SumReceivedBidir *jsonFigures    `json:"sum_received_bidir_reverse,omitempty"`
	CPU              *jsonCPU        `json:"cpu_utilization_percent,omitempty"`
	SenderCC         string          `json:"sender_tcp_congestion,omitempty"`
	ReceiverCC       string          `json:"receiver_tcp_congestion,omitempty"`
}

type jsonCPU struct {
	HostTotal    float64 `json:"host_total"`
	HostUser     float64 `json:"host_user"`
	HostSystem   float64 `json:"host_system"`
	RemoteTotal  float64 `json:"remote_total"`
	RemoteUser   float64 `json:"remote_user"`
	RemoteSystem float64 `json:"remote_system"`
}

type jsonKohaku struct {
	Mode          string       `json:"mode,omitempty"`
	Machine       MachineCPU   `json:"machine_cpu"`
	BusySeconds   float64      `json:"machine_cpu_seconds"`
	PerGbit       float64      `json:"machine_cpu_seconds_per_gbit,omitempty"`
	PerMpackets   float64      `json:"machine_cpu_seconds_per_million_packets,omitempty"`
	RemoteSeconds *float64     `json:"remote_machine_cpu_seconds,omitempty"`
	Latency       *jsonLatency `json:"latency,omitempty"`
}

type jsonLatency struct {
	Requests  int64   `json:"requests"`
	PerSecond float64 `json:"requests_per_second"`
	Lost      int64   `json:"lost"`
	Late      int64   `json:"late"`
	MinUs     float64 `json:"min_us"`
	MeanUs    float64 `json:"mean_us"`
	StdDevUs  float64 `json:"stddev_us"`
	P50Us     float64 `json:"p50_us"`
	P90Us     float64 `json:"p90_us"`
	P99Us     float64 `json:"p99_us"`
	P999Us    float64 `json:"p99_9_us"`
	MaxUs     float64 `json:"max_us"`
}

// JSON gives a value for encoding/json with the structure of iperf3's --json.
func (r *Result) JSON() any {
	d := jsonDoc{Start: r.jsonStart(), Intervals: []jsonInterval{}, Kohaku: r.jsonKohaku()}
	for i := range r.Intervals {
		d.Intervals = append(d.Intervals, r.jsonInterval(&r.Intervals[i]))
	}
	d.End = r.jsonEnd()
	if r.Err != nil {
		d.Error = r.Err.Error()
	}
	return d
}

func (r *Result) jsonStart() jsonStart {
	p := &r.Params
	proto := "TCP"
	if p.UDP {
		proto = "UDP"
	}
	s := jsonStart{
		Connected: []jsonSocket{}, Version: r.Version, SystemInfo: systemInfo(),
		Timestamp: jsonTime{r.Started.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"), r.Started.Unix()},
		Cookie:    r.Cookie, TCPMSS: r.MSS, TargetBitrate: int64(p.Bandwidth),
		SockBufsize: int64(p.Window), SndBuf: r.SndBuf, RcvBuf: r.RcvBuf,
		TestStart: jsonTestStart{
			Protocol: proto, Streams: int64(p.Parallel), Block: int64(p.Len), Omit: int64(p.Omit),
			Duration: int64(p.Time), Bytes: int64(p.Num), Blocks: int64(p.BlockCount),
			Reverse: bit(bool(p.Reverse)), Bidir: bit(bool(p.Bidirectional)),
			TOS: int64(p.TOS), TargetBitrate: int64(p.Bandwidth),
		},
	}
	host := &jsonHost{r.Peer.Addr().String(), r.Peer.Port()}
	if r.Client {
		s.ConnectingTo = host
	} else {
		s.AcceptedConnection = host
	}
	for _, st := range r.Streams {
		s.Connected = append(s.Connected, jsonSocket{
			st.Socket, st.Local.Addr().String(), st.Local.Port(), st.Remote.Addr().String(), st.Remote.Port(),
		})
	}
	return s
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

func systemInfo() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "Linux"
	}
	s := ""
	for i, f := range [][65]byte{u.Sysname, u.Nodename, u.Release, u.Version, u.Machine} {
		if i > 0 {
			s += " "
		}
		s += unix.ByteSliceToString(f[:])
	}
	return s
}

func (r *Result) jsonKohaku() *jsonKohaku {
	bytes, datagrams := r.Delivered()
	k := &jsonKohaku{
		Mode: r.Params.Mode(), Machine: r.Machine,
		BusySeconds: r.Machine.Busy(), PerGbit: r.Machine.PerGbit(bytes),
	}
	if r.Params.UDP {
		k.PerMpackets = r.Machine.PerMillion(datagrams)
	}
	if r.RemoteMach != nil {
		v := float64(r.RemoteMach.Busy)
		k.RemoteSeconds = &v
	}
	if l := r.Latency; l != nil {
		k.PerMpackets = 0
		us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
		k.Latency = &jsonLatency{
			Requests: l.Count, PerSecond: l.PerSecond(), Lost: l.Lost, Late: l.Late,
			MinUs: us(l.Min), MeanUs: us(l.Mean), StdDevUs: us(l.StdDev), P50Us: us(l.P50),
			P90Us: us(l.P90), P99Us: us(l.P99), P999Us: us(l.P999), MaxUs: us(l.Max),
		}
	}
	return k
}

// finite replaces what JSON has no number for.
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}
