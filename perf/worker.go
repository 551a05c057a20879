// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"kohaku/perf/iperf"
)

const (
	defaultBurst = 64
	maxBurst     = 1024
	receiveBatch = 256 // datagrams that a receiver takes in one call at most
	// maxBatchBytes bounds the memory of one stream's datagrams, and with it how
	// long one call keeps a processor in the kernel.
	maxBatchBytes = 512 << 10
	// softErrorLimit is how long a UDP sender bears errors that may pass.
	softErrorLimit = 5 * time.Second
)

// flow is what the workers of one test share.
type flow struct {
	params *iperf.Params
	burst  int

	counting atomic.Bool // receivers count: the test runs
	stopSend atomic.Bool // senders return
	stopRecv atomic.Bool // receivers return
	// limit is the amount of bytes, over all streams, after which the test is
	// over, 0 for none. It counts what this end sends, or receives if it does not send.
	limit     int64
	limitRecv bool
	total     atomic.Int64
	over      atomic.Bool
	exhausted chan struct{} // closed when total reaches limit
	dial      Dial          // of another stack; nil: the machine's
	dedicated bool          // see ClientConfig.Dedicated
	gate      *Gate         // keeps senders; nil: they send
	meter     *Meter        // counts what arrives here; nil: nobody asks
}

// newFlow prepares a test of the given parameters.
func newFlow(p *iperf.Params, burst int) *flow {
	return &flow{params: p, burst: burst, exhausted: make(chan struct{})}
}

// sending tells a sender to go on, after it was let through the gate.
func (f *flow) sending() bool {
	f.gate.wait()
	return !f.stopSend.Load()
}

// moved counts towards the limit.
func (f *flow) moved(n int) {
	if f.limit > 0 && f.total.Add(int64(n)) >= f.limit && f.over.CompareAndSwap(false, true) {
		close(f.exhausted)
	}
}

// room cuts a write so that it does not pass the limit. With several streams
// each may pass it by one write.
func (f *flow) room(n int) int {
	if f.limit == 0 {
		return n
	}
	return int(max(0, min(int64(n), f.limit-f.total.Load())))
}

// sendTCP writes blocks until it is told to stop.
func (f *flow) sendTCP(s *stream, block []byte) error {
	p := newPacer(int64(f.params.Bandwidth), len(block))
	rest := 0 // of the current block
	for f.sending() {
		if rest == 0 {
			if p.due(1) == 0 {
				continue
			}
			if rest = f.room(len(block)); rest == 0 {
				return nil
			}
			p.took(1)
		}
		n, err := s.sock.write(block[:rest])
		rest -= n
		s.n.bytes.Add(int64(n))
		f.moved(n)
		if err != nil && !again(err) {
			return fmt.Errorf("sending to %v: %w", s.sock.remote, err)
		}
	}
	return nil
}

// recvTCP reads until it is told to stop.
func (f *flow) recvTCP(s *stream, buf []byte) error {
	for !f.stopRecv.Load() {
		n, err := s.sock.read(buf)
		if err := f.received(s, n, err); err != nil {
			return err
		}
	}
	return nil
}

// received counts what one read of a TCP stream brought, or says why no more will
// come. That nothing was there is neither.
func (f *flow) received(s *stream, n int, err error) error {
	switch {
	case again(err), n == 0 && f.stopRecv.Load():
		return nil
	case err != nil:
		return fmt.Errorf("receiving from %v: %w", s.sock.remote, err)
	case n == 0:
		return fmt.Errorf("receiving from %v: %w: it closed the stream", s.sock.remote, io.ErrUnexpectedEOF)
	}
	if f.counting.Load() {
		if f.meter != nil {
			f.meter.add(clock(), int64(n), 0)
		}
		s.n.bytes.Add(int64(n))
		if f.limitRecv {
			f.moved(n)
		}
	}
	return nil
}

// batchLen gives how many datagrams of size bytes go into one batch.
func batchLen(burst, size int) int { return max(1, min(burst, maxBatchBytes/size)) }

// sendUDP sends datagrams until it is told to stop. A datagram that the kernel
// did not take is sent again with the same sequence number.
func (f *flow) sendUDP(s *stream, b *batch) error {
	wide := f.params.Counters64 != 0
	p := newPacer(int64(f.params.Bandwidth), b.size)
	var seq uint64
	var failing time.Duration // since when every call fails; 0: none does
	for f.sending() {
		n := p.due(len(b.msgs))
		if n == 0 {
			continue
		}
		// A datagram is sent whole or not at all, so the last may pass the limit.
		if n = (f.room(n*b.size) + b.size - 1) / b.size; n == 0 {
			return nil
		}
		now := clock()
		for i := range n {
			iperf.PutHeader(b.buf(i), now, seq+uint64(i)+1, wide)
		}
		sent, err := s.sock.sendBatch(b, 0, n)
		seq += uint64(sent)
		p.took(sent)
		s.n.bytes.Add(int64(sent * b.size))
		s.n.packets.Store(int64(seq))
		f.moved(sent * b.size)
		switch {
		case err == nil:
			failing = 0
		case again(err):
		case refused(err):
			if failing == 0 {
				failing = now
			}
			if now-failing > softErrorLimit {
				return fmt.Errorf("sending to %v fails since %v: %w", s.sock.remote, softErrorLimit, err)
			}
			sleep(50 * time.Microsecond)
		default:
			return fmt.Errorf("sending to %v: %w", s.sock.remote, err)
		}
	}
	return nil
}

// recvUDP receives and accounts datagrams until it is told to stop. The arrival
// of all datagrams that one call returns is the time of its return.
func (f *flow) recvUDP(s *stream, b *batch) error {
	wide := f.params.Counters64 != 0
	var t iperf.Tracker
	m := moderation{since: clock()}
	omitted := false
	for !f.stopRecv.Load() {
		n, err := s.sock.recvBatch(b, !m.polling)
		if err != nil && !again(err) && !refused(err) {
			return fmt.Errorf("receiving from %v: %w", s.sock.remote, err)
		}
		now := clock()
		if f.counting.Load() {
			if !omitted && s.resetJitter.Load() {
				t.Jitter, omitted = 0, true
			}
			bytes, items := 0, 0
			for i := range n {
				d := b.buf(i)[:b.length(i)]
				sent, seq, ok := iperf.ParseHeader(d, wide)
				if !ok || seq == 0 {
					f.stray(s, d)
					continue
				}
				t.Add(seq, sent, now)
				bytes += len(d)
				items++
			}
			if items > 0 {
				f.meter.add(now, int64(bytes), int64(items))
			}
			s.n.bytes.Add(int64(bytes))
			s.n.publish(&t)
			if f.limitRecv {
				f.moved(bytes)
			}
		}
		m.rest(n, len(b.msgs), now)
	}
	return nil
}

// stray handles what is no test datagram: a client that did not get the answer
// to its first one repeats it.
func (f *flow) stray(s *stream, d []byte) {
	if reply, ok := iperf.ConnectReply(d); ok {
		_, _ = s.sock.write(reply) // it will ask again if this gets lost too
	}
}
