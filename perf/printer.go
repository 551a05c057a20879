// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"io"
	"time"
)

// Printer writes a test as lines for a person: who is connected, one line for
// each interval and stream, and a summary. Its columns are iperf3's. Errors of
// the writer are kept and given by Err. It is not safe for concurrent use.
type Printer struct {
	w   io.Writer
	r   *Result
	err error
}

// NewPrinter prints to w.
func NewPrinter(w io.Writer) *Printer { return &Printer{w: w} }

// Err gives the first error of the writer.
func (p *Printer) Err() error { return p.err }

func (p *Printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// Start prints who is connected. It fits OnStart.
func (p *Printer) Start(r *Result) {
	p.r = r
	if r.Client {
		p.printf("Connected to %v, %s\n", r.Peer, r.what())
	} else {
		p.printf("Accepted %v, %s\n", r.Peer, r.what())
	}
	for _, s := range r.Streams {
		p.printf("[%3d] local %v remote %v\n", s.Socket, s.Local, s.Remote)
	}
	switch {
	case r.Mode() != Throughput:
		p.printf("[ ID] Interval           Requests   Per second\n")
	case bool(r.Params.UDP):
		p.printf("[ ID]%s Interval           Transfer     Bitrate         Jitter    Lost/Total Datagrams\n", p.roleColumn())
	default:
		p.printf("[ ID]%s Interval           Transfer     Bitrate         Retr  Cwnd\n", p.roleColumn())
	}
}

// what says what is measured in a few words.
func (r *Result) what() string {
	proto := "TCP"
	if r.Params.UDP {
		proto = "UDP"
	}
	dir := "sending"
	switch {
	case r.Mode() == RoundTrip:
		return fmt.Sprintf("%s round trips of %d bytes on %d streams", proto, r.Params.Len, r.Params.Parallel)
	case r.Mode() == Connect:
		return fmt.Sprintf("TCP connections, %d at a time", r.Params.Parallel)
	case bool(r.Params.Bidirectional):
		dir = "sending and receiving"
	case !r.Sends():
		dir = "receiving"
	}
	return fmt.Sprintf("%s, %s, %d streams, blocks of %d bytes", proto, dir, r.Params.Parallel, r.Params.Len)
}

func (p *Printer) roleColumn() string {
	if p.r.Params.Bidirectional {
		return "[Role]  "
	}
	return ""
}

func (p *Printer) role(sender bool) string {
	if !p.r.Params.Bidirectional {
		return ""
	}
	end, dir := "S", "RX"
	if p.r.Client {
		end = "C"
	}
	if sender {
		dir = "TX"
	}
	return fmt.Sprintf("[%s-%s]", dir, end)
}

// Interval prints one interval. It fits OnInterval.
func (p *Printer) Interval(iv *Interval) {
	if p.r == nil {
		return
	}
	if p.r.Mode() != Throughput {
		p.printf("[SUM] %s %9d  %10.0f/s\n", span(iv.Start, iv.End), iv.Requests, float64(iv.Requests)/max(iv.End-iv.Start, 1e-9))
		return
	}
	omitted := ""
	if iv.Omitted {
		omitted = "  (omitted)"
	}
	count := map[bool]int{}
	for _, s := range iv.Streams {
		count[s.Sender]++
		p.line(fmt.Sprintf("[%3d]", s.Socket), s.Sender, iv.Start, iv.End, s.Totals, s.Sender, s.TCP, omitted)
	}
	for _, sender := range []bool{true, false} {
		if count[sender] > 1 {
			p.line("[SUM]", sender, iv.Start, iv.End, iv.Sum(sender), sender, nil, omitted)
		}
	}
}

// line prints the figures of a stream or sum. sent says whose view they are.
func (p *Printer) line(id string, sender bool, start, end float64, t Totals, sent bool, tcp *TCPState, tail string) {
	head := fmt.Sprintf("%s%s %s %s %s", id, p.role(sender), span(start, end), size(t.Bytes), rate(t.BitsPerSecond()))
	switch {
	case bool(p.r.Params.UDP) && sent:
		p.printf("%s  %d%s\n", head, t.Packets, tail)
	case bool(p.r.Params.UDP):
		p.printf("%s  %.3f ms  %d/%d (%.2g%%)%s%s\n", head, t.Jitter*1000, t.Lost, t.Packets, t.LostPercent(), reordered(t.OutOfOrder), tail)
	case sent && t.Retransmits >= 0:
		cwnd := ""
		if tcp != nil {
			cwnd = size(tcp.Window)
		}
		p.printf("%s %5d %s%s\n", head, t.Retransmits, cwnd, tail)
	default:
		p.printf("%s%s\n", head, tail)
	}
}

func reordered(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("  %d out of order", n)
}

// Summary prints the end of a test.
func (p *Printer) Summary(r *Result) {
	p.r = r
	if len(r.Streams) == 0 {
		return
	}
	p.printf("- - - - - - - - - - - - - - - - - - - - - - - - -\n")
	if r.Mode() != Throughput {
		if r.Latency != nil {
			p.latency(r.Latency)
		}
	} else {
		count := map[bool]int{}
		for i := range r.Streams {
			s := &r.Streams[i]
			count[s.Sender]++
			p.ends(fmt.Sprintf("[%3d]", s.Socket), s.Sender, s.Sent, s.Received)
		}
		for _, sender := range []bool{true, false} {
			if count[sender] > 1 {
				sent, received := r.Sum(sender)
				p.ends("[SUM]", sender, sent, received)
			}
		}
	}
	p.machine(r)
}

func (p *Printer) ends(id string, sender bool, sent, received Totals) {
	// A stock server that was interrupted, or an own test that was, leaves one side empty.
	if sent.Seconds > 0 {
		p.line(id, sender, 0, sent.Seconds, sent, true, nil, "  sender")
	}
	if received.Seconds > 0 {
		p.line(id, sender, 0, received.Seconds, received, false, nil, "  receiver")
	}
}

func (p *Printer) latency(l *Latency) {
	noun := "round trips"
	if p.r.Mode() == Connect {
		noun = "connections"
	}
	p.printf("%d %s in %.2f s: %.0f/s", l.Count, noun, l.Seconds, l.PerSecond())
	if l.Lost+l.Late > 0 {
		p.printf(", %d lost, %d late", l.Lost, l.Late)
	}
	p.printf("\n   min %s  p50 %s  p90 %s  p99 %s  p99.9 %s  max %s  mean %s\n",
		us(l.Min), us(l.P50), us(l.P90), us(l.P99), us(l.P999), us(l.Max), us(l.Mean))
}

func us(d time.Duration) string { return fmt.Sprintf("%.1f us", float64(d.Nanoseconds())/1e3) }

// machine prints what the test cost.
func (p *Printer) machine(r *Result) {
	m := r.Machine
	if m.Elapsed == 0 {
		return
	}
	p.printf("CPU of this machine: %.2f s busy in %.2f s on %d CPUs (%.0f%%)", m.Busy(), m.Elapsed, m.CPUs,
		100*m.Busy()/(m.Elapsed*float64(max(m.CPUs, 1))))
	bytes, datagrams := r.Delivered()
	switch {
	case r.Mode() != Throughput:
	case bool(r.Params.UDP) && datagrams > 0:
		p.printf(", %.2f s per million datagrams, %.3f s per Gbit", m.PerMillion(datagrams), m.PerGbit(bytes))
	case bytes > 0:
		p.printf(", %.3f s per Gbit", m.PerGbit(bytes))
	}
	p.printf("\n")
}

func span(start, end float64) string { return fmt.Sprintf("%6.2f-%-6.2f sec", start, end) }

// size prints an amount of bytes in iperf3's binary units.
func size(n int64) string {
	v, unit := float64(n), 0
	units := []string{" Bytes", "KBytes", "MBytes", "GBytes", "TBytes"}
	for v >= 1024 && unit < len(units)-1 {
		v /= 1024
		unit++
	}
	return fmt.Sprintf("%5s %s", three(v), units[unit])
}

// rate prints bit/s in decimal units.
func rate(b float64) string {
	units := []string{" bits/sec", "Kbits/sec", "Mbits/sec", "Gbits/sec", "Tbits/sec"}
	unit := 0
	for b >= 1000 && unit < len(units)-1 {
		b /= 1000
		unit++
	}
	return fmt.Sprintf("%5s %s", three(b), units[unit])
}

// three prints three significant digits.
func three(v float64) string {
	switch {
	case v >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
