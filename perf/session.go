// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"kohaku/perf/iperf"
)

// phase is what a session does with connections that carry its cookie.
type phase int

const (
	negotiating phase = iota // refuse them
	creating                 // they are streams
	connecting               // they are measured: answer and forget
	ending                   // new clients wait, it is over in a moment
)

// session is one test at the server.
type session struct {
	*control
	srv    *server
	cookie iperf.Cookie
	params *iperf.Params
	m      *measurement
	over   chan struct{} // closed when the server is free again

	mu       sync.Mutex
	phase    phase
	incoming chan arrival   // streams, while creating
	answers  sync.WaitGroup // connections being answered, while connecting
}

func newSession(ctx context.Context, srv *server, conn *net.TCPConn, cookie iperf.Cookie) *session {
	return &session{
		control: newControl(ctx, conn), srv: srv, cookie: cookie,
		incoming: make(chan arrival, 2*iperf.MaxStreams), over: make(chan struct{}),
	}
}

// arrival is a connection and its place in the order of those accepted.
type arrival struct {
	conn  *net.TCPConn
	order uint64
}

// take hands the session a connection with its cookie; false means that it has
// no use for it.
func (s *session) take(a arrival) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.phase {
	case creating:
		select {
		case s.incoming <- a:
			return true
		default:
		}
	case connecting:
		s.answers.Go(func() { answer(a.conn) })
		return true
	}
	return false
}

// answer is the server's part of one measured connection.
func answer(conn *net.TCPConn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(cookieTimeout))
	var b [1]byte
	if _, err := conn.Write(b[:]); err == nil {
		_, _ = conn.Read(b[:]) // until the client drops it
	}
}

func (s *session) ending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.phase == ending
}

func (s *session) enter(p phase) {
	s.mu.Lock()
	s.phase = p
	s.mu.Unlock()
}

// run is the whole session; the error is also in the result that OnResult gets.
func (s *session) run() error {
	defer s.close()
	peer := s.conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	res := &Result{
		Cookie: s.cookie.String(), Version: Version, Peer: peer, Started: time.Now(), MSS: maxSegment(s.conn),
	}
	log := s.srv.cfg.Log.With("client", peer)
	err := s.test(res)
	s.enter(ending)
	if err != nil {
		if s.ctx.Err() != nil {
			s.goodbye(iperf.ServerTerminate)
		}
		res.Err = err
		log.Warn("a perf test ended early", "err", err)
	}
	if s.m != nil {
		s.m.stop()
	}
	s.dropIncoming()
	s.answers.Wait()
	if s.srv.cfg.OnResult != nil {
		s.srv.cfg.OnResult(res)
	}
	return err
}

// dropIncoming closes streams that came too late.
func (s *session) dropIncoming() {
	for {
		select {
		case c := <-s.incoming:
			c.conn.Close()
		default:
			return
		}
	}
}

// test follows the protocol to its end.
func (s *session) test(res *Result) error {
	if err := s.send(iperf.ParamExchange, handshakeTimeout); err != nil {
		return err
	}
	s.deadline(handshakeTimeout)
	p, err := iperf.ReadParams(s.conn)
	if err == nil {
		err = s.srv.limits(p)
	}
	if err != nil {
		return s.refuse(err)
	}
	s.params = p
	res.Params = *p
	f := newFlow(p, defaultBurst)
	f.dedicated, f.meter = s.srv.cfg.Dedicated, s.srv.cfg.Meter
	s.m = newMeasurement(res, f)
	s.m.interval, s.m.onInterval, s.m.cookie = s.srv.cfg.Interval, s.srv.cfg.OnInterval, s.cookie
	if err := s.createStreams(); err != nil {
		return err
	}
	return s.measure()
}

// refuse tells the client why its parameters are not accepted.
func (s *session) refuse(err error) error {
	var pe *iperf.ParamError
	code := iperf.CodeRecvParams
	if errors.As(err, &pe) {
		code = pe.Code
	}
	if s.ctx.Err() == nil {
		s.deadline(handshakeTimeout)
		_ = iperf.WriteServerError(s.conn, &iperf.RemoteError{Code: code})
	}
	return s.why(fmt.Errorf("the parameters: %w", err))
}

// limits checks parameters against what this server allows.
func (s *server) limits(p *iperf.Params) error {
	if d := time.Duration(p.Time)*time.Second + p.Omitted(); d > s.cfg.MaxDuration {
		return &iperf.ParamError{Code: iperf.CodeDuration, What: fmt.Sprintf("a test of %v, at most %v is allowed here", d, s.cfg.MaxDuration)}
	}
	if s.cfg.MaxRate > 0 {
		sum := int64(p.Bandwidth) * int64(p.Parallel)
		if p.Bidirectional {
			sum *= 2
		}
		if sum == 0 || sum > s.cfg.MaxRate {
			return &iperf.ParamError{Code: iperf.CodeTotalRate, What: fmt.Sprintf("a rate of %d bit/s (0 is unlimited), at most %d is allowed here", sum, s.cfg.MaxRate)}
		}
	}
	return nil
}

// measure is the test proper and the exchange of results.
func (s *session) measure() error {
	if err := s.send(iperf.TestStart, handshakeTimeout); err != nil {
		return err
	}
	if err := s.m.beginReceiving(); err != nil {
		return err
	}
	if s.m.res.Mode() == Connect {
		s.enter(connecting)
	}
	if s.srv.cfg.OnStart != nil {
		s.srv.cfg.OnStart(s.m.res)
	}
	if err := s.send(iperf.TestRunning, handshakeTimeout); err != nil {
		return err
	}
	s.m.beginSending()
	if err := s.untilEnd(); err != nil {
		return err
	}
	s.m.freeze()
	s.m.stop() // as iperf3 does, so that a receiving client is not flooded with the rest
	if err := s.send(iperf.ExchangeResults, handshakeTimeout); err != nil {
		return err
	}
	s.deadline(streamTimeout)
	theirs, err := iperf.ReadResults(s.conn)
	if err != nil {
		return s.why(err)
	}
	s.m.merge(theirs)
	if err := iperf.WriteFrame(s.conn, s.m.outgoing()); err != nil {
		return s.why(fmt.Errorf("sending the results: %w", err))
	}
	s.enter(ending)
	if err := s.send(iperf.DisplayResults, handshakeTimeout); err != nil {
		return err
	}
	// The figures are complete; a client that leaves without a word changes nothing.
	_, _ = s.recv(goodbyeTimeout)
	return s.why(nil)
}

// untilEnd waits for the client's TEST_END.
func (s *session) untilEnd() error {
	limit := s.srv.cfg.MaxDuration
	if s.params.Time > 0 {
		limit = time.Duration(s.params.Time)*time.Second + s.params.Omitted()
	}
	clk := newTestClock(s.params.Omitted(), 0, s.srv.cfg.Interval)
	defer clk.stop()
	expired := time.NewTimer(limit + serverGrace)
	defer expired.Stop()
	idle := newIdle(s.m, s.srv.cfg.IdleTimeout)
	defer idle.Stop()
	ch := s.watch()
	var failed error
	var patience <-chan time.Time
	for {
		select {
		case <-clk.omit():
			s.m.endOmit()
			clk.restartInterval()
		case <-clk.tick():
			s.m.report()
		case failed = <-s.m.failed:
			if patience == nil {
				patience = time.After(failureGrace)
			}
		case <-patience:
			s.unwatch(ch)
			return s.why(failed)
		case <-expired.C:
			s.unwatch(ch)
			return fmt.Errorf("the client did not end the test %v after its time", serverGrace)
		case <-idle.C:
			if idle.stalled() {
				s.unwatch(ch)
				_ = iperf.WriteServerError(s.conn, &iperf.RemoteError{Code: iperf.CodeNoMessage})
				return fmt.Errorf("no data from the client for %v", s.srv.cfg.IdleTimeout)
			}
		case msg := <-ch:
			return s.clientSays(msg, failed)
		}
	}
}

// clientSays judges the message that ends the test.
func (s *session) clientSays(msg message, failed error) error {
	switch {
	case errors.Is(msg.err, io.EOF):
		return errors.Join(errors.New("the client closed the control connection during the test"), failed)
	case msg.err != nil:
		return msg.err
	case msg.state == iperf.TestEnd:
		return nil
	case msg.state == iperf.ClientTerminate:
		return ErrClientStopped
	}
	return fmt.Errorf("the client sent %v where TEST_END was due", msg.state)
}

// ErrClientStopped tells that the client was interrupted during the test.
var ErrClientStopped = errors.New("the client was stopped")

// idle looks whether anything arrives.
type idle struct {
	*time.Ticker
	m    *measurement
	last int64
	off  bool
}

func newIdle(m *measurement, after time.Duration) *idle {
	i := &idle{Ticker: time.NewTicker(after), m: m, last: -1}
	// Where the server only sends, or idle streams belong to the test, silence is normal.
	i.off = !m.res.Receives() || m.res.Mode() != Throughput
	return i
}

// stalled reports that nothing arrived since it was last asked.
func (i *idle) stalled() bool {
	var n int64
	for _, s := range i.m.streams {
		n += s.n.bytes.Load()
	}
	same := n == i.last
	i.last = n
	return same && !i.off
}
