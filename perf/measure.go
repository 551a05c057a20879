// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"kohaku/perf/iperf"
)

// measurement is one test at one end, from the moment its parameters are known:
// its streams, their workers, the reports and the result. It is used by one
// goroutine; the workers touch only their stream and the flow.
type measurement struct {
	*flow
	res        *Result
	streams    []*stream
	interval   time.Duration
	onInterval func(*Interval)
	cookie     iperf.Cookie

	senders, receivers sync.WaitGroup
	failed             chan error // one from each worker at most
	probers            []*prober

	mark     cpuMark
	start    time.Time // of the time that counts
	reported time.Time // end of the last interval
	omitting bool
	stopped  bool
	seconds  float64 // that counted, once frozen
	last     []snapshot
}

func newMeasurement(res *Result, f *flow) *measurement {
	return &measurement{flow: f, res: res, failed: make(chan error, 2*iperf.MaxStreams)}
}

// add takes ownership of a stream's socket.
func (m *measurement) add(s *sock, sender bool) {
	st := &stream{id: iperf.StreamID(len(m.streams)), sender: sender, sock: s}
	if len(m.streams) == 0 {
		m.res.SndBuf, m.res.RcvBuf = s.bufferSizes()
	}
	if bool(m.params.TCP) && sender {
		_, st.tcpOK = tcpState(s.fd)
	}
	m.streams = append(m.streams, st)
	m.res.Streams = append(m.res.Streams, StreamResult{
		ID: st.id, Socket: st.number(), Sender: sender, Local: s.local, Remote: s.remote,
	})
}

// beginReceiving starts the receivers; from here on they count.
func (m *measurement) beginReceiving() error {
	var err error
	if m.mark, err = markCPU(); err != nil {
		return err
	}
	m.setAlone()
	m.start = time.Now()
	m.reported = m.start
	m.omitting = m.params.Omitted() > 0
	m.counting.Store(true)
	receiving := m.direction(false)
	if m.shared(receiving) {
		for _, part := range shares(receiving) {
			m.run(&m.receivers, func() error { return m.recvShared(part, make([]byte, iperf.DefaultTCPBlock)) })
		}
		return nil
	}
	for _, s := range receiving {
		m.runOne(&m.receivers, s, m.receiver(s))
	}
	return nil
}

// beginSending starts the senders.
func (m *measurement) beginSending() {
	sending := m.direction(true)
	var block []byte
	if bool(m.params.TCP) && len(sending) > 0 {
		block = payload(int(m.params.Len))
	}
	if m.shared(sending) {
		for _, part := range shares(sending) {
			m.run(&m.senders, func() error { return m.sendShared(part, block) })
		}
		return
	}
	for _, s := range sending {
		m.runOne(&m.senders, s, m.sendingWorker(s, block))
	}
}

// sendingWorkers is how many workers beginSending starts.
func (m *measurement) sendingWorkers() int {
	sending := m.direction(true)
	if m.shared(sending) {
		return len(shares(sending))
	}
	return len(sending)
}

// direction gives the streams that this end sends on, or receives on.
func (m *measurement) direction(sender bool) []*stream {
	var out []*stream
	for _, s := range m.streams {
		if s.sender == sender {
			out = append(out, s)
		}
	}
	return out
}

// shared reports whether streams share threads: see group.go.
func (m *measurement) shared(ss []*stream) bool {
	return bool(m.params.TCP) && m.res.Mode() == Throughput && m.params.Bandwidth == 0 && m.dial == nil
}

// run starts a worker on a thread of its own, as it mostly blocks in the kernel.
func (m *measurement) run(wg *sync.WaitGroup, work func() error) {
	wg.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := work(); err != nil {
			m.failed <- err
		}
	})
}

// runOne starts the worker of one stream.
func (m *measurement) runOne(wg *sync.WaitGroup, s *stream, work func() error) {
	m.run(wg, func() error {
		if err := work(); err != nil {
			return fmt.Errorf("stream %d: %w", s.id, err)
		}
		return nil
	})
}

func (m *measurement) receiver(s *stream) func() error {
	n := int(m.params.Len)
	switch {
	case m.res.Mode() == RoundTrip && bool(m.params.UDP):
		return func() error { return m.echoUDP(s, make([]byte, maxRequest)) }
	case m.res.Mode() == RoundTrip:
		return func() error { return m.echoTCP(s, make([]byte, n)) }
	case bool(m.params.UDP):
		b := newBatch(batchLen(receiveBatch, n), n)
		return func() error { return m.recvUDP(s, b) }
	default:
		buf := make([]byte, iperf.DefaultTCPBlock)
		return func() error { return m.recvTCP(s, buf) }
	}
}

func (m *measurement) sendingWorker(s *stream, block []byte) func() error {
	n := int(m.params.Len)
	if m.res.Mode() != Throughput {
		p := &prober{hist: newHistogram(), meter: m.meter}
		m.probers = append(m.probers, p)
		switch {
		case m.res.Mode() == Connect:
			return func() error { return m.connects(s, p, s.sock.local.Addr(), s.sock.zone, m.cookie) }
		case bool(m.params.UDP):
			return func() error { return m.exchangeUDP(s, p, payload(n)) }
		default:
			return func() error { return m.exchangeTCP(s, p, payload(n)) }
		}
	}
	if m.params.UDP {
		b := newBatch(batchLen(m.burst, n), n)
		fill(b.mem)
		return func() error { return m.sendUDP(s, b) }
	}
	return func() error { return m.sendTCP(s, block) }
}

// payload gives n bytes that do not compress to nothing.
func payload(n int) []byte {
	b := make([]byte, n)
	fill(b)
	return b
}

func fill(b []byte) {
	x := uint32(2463534242) // xorshift, Marsaglia 2003
	for i := range b {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		b[i] = byte(x)
	}
}

// endOmit starts the time that counts anew.
func (m *measurement) endOmit() {
	m.report()
	for _, s := range m.streams {
		s.base = s.take()
		s.rtts = rttStats{}
		s.prev = s.base
		s.resetJitter.Store(true)
	}
	m.omitting = false
	m.start = time.Now()
	m.reported = m.start
	if mark, err := markCPU(); err == nil {
		m.mark = mark
	}
}

// report ends an interval.
func (m *measurement) report() { m.reportUntil(time.Now()) }

func (m *measurement) reportUntil(now time.Time) {
	iv := &Interval{
		Start: m.reported.Sub(m.start).Seconds(), End: now.Sub(m.start).Seconds(),
		Omitted: m.omitting,
	}
	seconds := now.Sub(m.reported).Seconds()
	if m.interval == 0 || seconds <= 0 {
		return
	}
	for _, s := range m.streams {
		v := s.take()
		si := StreamInterval{ID: s.id, Socket: s.number(), Sender: s.sender, Totals: v.diff(s.prev, seconds)}
		if s.tcpOK {
			t := v.tcp
			si.TCP = &t
		}
		iv.Requests += v.requests - s.prev.requests
		s.prev = v
		iv.Streams = append(iv.Streams, si)
	}
	m.reported = now
	m.res.Intervals = append(m.res.Intervals, *iv)
	if m.onInterval != nil {
		m.onInterval(iv)
	}
}

// freeze ends the time that counts: senders stop, receivers go on reading but
// do not count any more, so that a sender at the other end is not blocked.
func (m *measurement) freeze() {
	if m.seconds != 0 || m.start.IsZero() {
		return
	}
	m.stopSend.Store(true)
	m.gate.leave()
	m.senders.Wait()
	m.counting.Store(false)
	now := time.Now()
	m.seconds = max(now.Sub(m.start).Seconds(), 1e-9)
	if end, err := markCPU(); err == nil {
		m.res.Machine = m.mark.since(end)
		m.res.CPU = m.mark.process(end)
	}
	// A tail too short to be an interval of its own would only show a strange rate.
	if now.Sub(m.reported) > 50*time.Millisecond || len(m.res.Intervals) == 0 {
		m.reportUntil(now)
	}
	for _, s := range m.streams {
		m.last = append(m.last, s.take())
	}
	m.fillOwn()
	if len(m.probers) > 0 {
		m.res.Latency = m.latency()
	}
}

// stop ends every worker and closes the streams. It may be called again.
func (m *measurement) stop() {
	if m.stopped {
		return // the descriptors may be somebody else's by now
	}
	m.stopped = true
	m.freeze()
	m.stopSend.Store(true)
	m.stopRecv.Store(true)
	m.senders.Wait()
	for _, s := range m.streams {
		s.sock.wake()
	}
	m.receivers.Wait()
	for _, s := range m.streams {
		s.sock.close()
	}
}
