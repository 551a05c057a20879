// SPDX-License-Identifier: Apache-2.0

package perf

// figures gives the common part of a stream or sum.
func figures(start, end float64, t Totals, sender bool) *jsonFigures {
	return &jsonFigures{
		Start: finite(start), End: finite(end), Seconds: finite(t.Seconds),
		Bytes: t.Bytes, Bits: finite(t.BitsPerSecond()), Sender: sender,
	}
}

// withUDP adds what a UDP end knows; a sender knows only how many it sent.
func (f *jsonFigures) withUDP(t Totals, receiver bool) *jsonFigures {
	f.Packets = &t.Packets
	if receiver {
		ms, pct := finite(t.Jitter*1000), finite(t.LostPercent())
		f.JitterMs, f.Lost, f.LostPercent = &ms, &t.Lost, &pct
	}
	return f
}

// withRetransmits adds them where they are known.
func (f *jsonFigures) withRetransmits(t Totals) *jsonFigures {
	if t.Retransmits >= 0 {
		f.Retransmits = &t.Retransmits
	}
	return f
}

func (r *Result) jsonInterval(iv *Interval) jsonInterval {
	j := jsonInterval{Streams: []jsonFigures{}, Requests: iv.Requests}
	for i := range iv.Streams {
		s := iv.Streams[i]
		f := figures(iv.Start, iv.End, s.Totals, s.Sender)
		socket, omitted := s.Socket, iv.Omitted
		f.Socket, f.Omitted = &socket, &omitted
		switch {
		case bool(r.Params.UDP):
			f.withUDP(s.Totals, !s.Sender)
		case s.TCP != nil:
			f.withRetransmits(s.Totals)
			rtt, rttvar := s.TCP.RTT.Microseconds(), s.TCP.RTTVar.Microseconds()
			f.SndCwnd, f.SndWnd, f.PMTU = &s.TCP.Window, &s.TCP.PeerWin, &s.TCP.PathMTU
			f.RTT, f.RTTVar = &rtt, &rttvar
		}
		j.Streams = append(j.Streams, *f)
	}
	sum := func(sender bool) *jsonFigures {
		t := iv.Sum(sender)
		f := figures(iv.Start, iv.End, t, sender)
		omitted := iv.Omitted
		f.Omitted = &omitted
		if r.Params.UDP {
			return f.withUDP(t, !sender)
		}
		if sender {
			return f.withRetransmits(t)
		}
		return f
	}
	// "Reverse" is what the server sends, whichever end prints it.
	switch {
	case bool(r.Params.Bidirectional):
		j.Sum, j.SumBidir = sum(r.Client), sum(!r.Client)
	default:
		j.Sum = sum(r.Sends())
	}
	return j
}

func (r *Result) jsonEnd() jsonEnd {
	e := jsonEnd{Streams: []jsonEndStream{}, CPU: &jsonCPU{
		HostTotal: finite(r.CPU.Total), HostUser: finite(r.CPU.User), HostSystem: finite(r.CPU.System),
		RemoteTotal: finite(r.RemoteCPU.Total), RemoteUser: finite(r.RemoteCPU.User), RemoteSystem: finite(r.RemoteCPU.System),
	}}
	for i := range r.Streams {
		e.Streams = append(e.Streams, r.jsonEndStream(&r.Streams[i]))
	}
	if len(r.Streams) > 0 {
		if r.Params.Bidirectional {
			e.Sum, e.SumSent, e.SumReceived = r.jsonSums(r.Client)
			e.SumBidir, e.SumSentBidir, e.SumReceivedBidir = r.jsonSums(!r.Client)
		} else {
			e.Sum, e.SumSent, e.SumReceived = r.jsonSums(r.Sends())
		}
	}
	if r.Params.TCP {
		e.SenderCC, e.ReceiverCC = r.Congestion, r.RemoteCongestion
		if !r.Sends() {
			e.SenderCC, e.ReceiverCC = e.ReceiverCC, e.SenderCC
		}
	}
	return e
}

func (r *Result) jsonEndStream(s *StreamResult) jsonEndStream {
	socket := s.Socket
	if r.Params.UDP {
		// One object for both ends, as iperf3 does: bytes as sent, the rest as received.
		f := figures(0, s.Sent.Seconds, s.Sent, s.Sender).withUDP(s.Received, true)
		packets := max(s.Sent.Packets, s.Received.Packets)
		f.Socket, f.Packets, f.OutOfOrder = &socket, &packets, &s.Received.OutOfOrder
		return jsonEndStream{UDP: f}
	}
	snd := figures(0, s.Sent.Seconds, s.Sent, s.Sender).withRetransmits(s.Sent)
	if s.Sender {
		lo, hi, mean := s.MinRTT.Microseconds(), s.MaxRTT.Microseconds(), s.MeanRTT.Microseconds()
		snd.MaxSndCwnd, snd.MaxSndWnd = &s.MaxWindow, &s.MaxPeerWindow
		snd.MinRTT, snd.MaxRTT, snd.MeanRTT = &lo, &hi, &mean
	}
	rcv := figures(0, s.Received.Seconds, s.Received, s.Sender)
	snd.Socket, rcv.Socket = &socket, &socket
	return jsonEndStream{Sender: snd, Receiver: rcv}
}

// jsonSums gives the sums of one direction; for TCP there is no plain "sum".
func (r *Result) jsonSums(sender bool) (sum, sent, received *jsonFigures) {
	s, c := r.Sum(sender)
	sent = figures(0, s.Seconds, s, sender)
	received = figures(0, c.Seconds, c, sender)
	if !r.Params.UDP {
		return nil, sent.withRetransmits(s), received
	}
	sent.Sender, received.Sender = true, false
	zero, none := 0.0, int64(0)
	sent.withUDP(s, false)
	sent.JitterMs, sent.Lost, sent.LostPercent = &zero, &none, &zero
	received.withUDP(c, true)
	received.OutOfOrder = &c.OutOfOrder
	sum = figures(0, c.Seconds, s, sender).withUDP(c, true)
	packets := max(s.Packets, c.Packets)
	sum.Packets = &packets
	return sum, sent, received
}
