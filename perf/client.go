// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"kohaku/perf/iperf"
)

// ErrBusy tells that the server runs another test, or does not serve this client.
var ErrBusy = errors.New("the server is busy with another test, or does not serve this address: try again later")

// ErrServerStopped tells that the server was interrupted during the test.
var ErrServerStopped = errors.New("the server was stopped")

// ErrStockServer tells that the server does not know round trips and connection rate.
var ErrStockServer = errors.New("the server speaks iperf3's protocol without our extension, so it can measure throughput and omit whole seconds only: run \"kohaku perf server\" there")

const (
	handshakeTimeout = 10 * time.Second // for each step of the protocol
	streamTimeout    = 30 * time.Second // for the server to have all streams
	goodbyeTimeout   = 2 * time.Second  // for the client's last word, on which nothing depends
	// failureGrace is how long the other end may take to explain a stream's failure.
	failureGrace = 2 * time.Second
	// serverGrace is what a server adds to a test's duration before it gives up,
	// the same as iperf3's.
	serverGrace = 40 * time.Second
)

// RunClient runs one test. It returns when the test is over, or when ctx is
// done: then the server is told, and the Result holds what was reached until
// then. The Result is nil only if no stream was made; its Err is the returned
// error. At most one error is typed: ErrBusy, ErrServerStopped, ErrStockServer,
// *iperf.RemoteError, the context's cause, or one of the system's.
//
// It needs no privilege. With CAP_NET_ADMIN, UDP buffers may exceed the
// system's limit (see DefaultUDPWindow).
func RunClient(ctx context.Context, cfg ClientConfig) (*Result, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	conn, to, err := cfg.dialControl(ctx)
	if err != nil {
		return nil, err
	}
	if cfg.UDP && cfg.Length == 0 {
		cfg.Length = datagramFor(maxSegment(conn))
	}
	c := &client{
		cfg: cfg, to: to, params: cfg.params(), cookie: iperf.NewCookie(),
		control: newControl(ctx, conn),
	}
	defer c.close()
	c.newMeasurement(maxSegment(conn))
	defer c.m.stop()

	err = c.session()
	if err == nil {
		return c.m.res, nil
	}
	if ctx.Err() != nil {
		c.goodbye(iperf.ClientTerminate)
	}
	c.m.freeze()
	c.m.res.Err = err
	if len(c.m.streams) == 0 {
		return nil, err
	}
	return c.m.res, err
}

// datagramFor gives the payload of a datagram that fits where a TCP segment of
// the given size does.
func datagramFor(mss int) int {
	if mss < iperf.MinUDPBlockSize || mss > iperf.MaxUDPBlockSize {
		return iperf.DefaultUDPBlock
	}
	return mss
}

// client is one test at the client.
type client struct {
	*control
	cfg    ClientConfig
	to     peer
	params *iperf.Params
	cookie iperf.Cookie
	m      *measurement
}

func (c *client) newMeasurement(mss int) {
	res := &Result{
		Client: true, Cookie: c.cookie.String(), Version: Version, Peer: c.to.addr,
		Target: c.cfg.Server, Started: time.Now(), Params: *c.params, MSS: mss,
	}
	f := newFlow(c.params, c.cfg.Burst)
	f.dial, f.dedicated = c.cfg.Dial, c.cfg.Dedicated
	f.gate, f.meter = c.cfg.Gate, c.cfg.Meter
	f.limit, f.limitRecv = c.cfg.Bytes, c.cfg.Reverse
	c.m = newMeasurement(res, f)
	c.m.interval, c.m.onInterval, c.m.cookie = c.cfg.Interval, c.cfg.OnInterval, c.cookie
}

// session follows the server through its states until the test is done.
func (c *client) session() error {
	c.deadline(handshakeTimeout)
	if _, err := c.conn.Write(c.cookie[:]); err != nil {
		return c.why(fmt.Errorf("sending the cookie: %w", err))
	}
	if err := c.expect(iperf.ParamExchange, handshakeTimeout); err != nil {
		return err
	}
	c.deadline(handshakeTimeout)
	if err := iperf.WriteFrame(c.conn, c.params); err != nil {
		return c.why(fmt.Errorf("sending the parameters: %w", err))
	}
	if err := c.expectCreate(); err != nil {
		return err
	}
	if err := c.createStreams(); err != nil {
		return err
	}
	if err := c.expect(iperf.TestStart, streamTimeout); err != nil {
		return err
	}
	if err := c.expect(iperf.TestRunning, handshakeTimeout); err != nil {
		return err
	}
	if err := c.measure(); err != nil {
		return err
	}
	return c.finish()
}

// expect reads a state and explains any other than the one wanted.
func (c *client) expect(want iperf.State, d time.Duration) error {
	got, err := c.recv(d)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the server at %v closed the connection where %v was due", c.to.addr, want)
		}
		return err
	}
	if got != want {
		return c.unexpected(got, want)
	}
	return nil
}

func (c *client) unexpected(got, want iperf.State) error {
	switch got {
	case iperf.AccessDenied:
		return ErrBusy
	case iperf.ServerTerminate:
		return ErrServerStopped
	case iperf.ServerError:
		c.deadline(handshakeTimeout)
		e, err := iperf.ReadServerError(c.conn)
		if err != nil {
			return c.why(err)
		}
		return e
	}
	return fmt.Errorf("the server at %v sent %v where %v was due: it is no iperf3 server, or of a release that differs", c.to.addr, got, want)
}

// expectCreate waits for the server's agreement to the parameters.
func (c *client) expectCreate() error {
	want := iperf.CreateStreams
	if c.params.Extended() {
		want = iperf.CreateExtended
	}
	got, err := c.recv(streamTimeout)
	switch {
	case err != nil && errors.Is(err, io.EOF):
		return fmt.Errorf("the server at %v closed the connection after it got the parameters", c.to.addr)
	case err != nil:
		return err
	case got == want:
		return nil
	case got == iperf.CreateStreams:
		c.goodbye(iperf.ClientTerminate)
		return ErrStockServer
	}
	return c.unexpected(got, want)
}

// createStreams opens the data connections: those this end sends on first, as
// the server takes them in its own order of receiving and sending.
func (c *client) createStreams() error {
	dirs := []bool{!c.cfg.Reverse}
	if c.cfg.Bidir {
		dirs = []bool{true, false}
	}
	for _, sender := range dirs {
		for range c.cfg.Streams {
			var s *sock
			var err error
			if c.cfg.UDP {
				s, err = c.to.dialUDP(c.ctx, c.params, streamTimeout)
			} else {
				s, err = c.to.dialTCP(c.ctx, c.params, c.cookie, streamTimeout)
			}
			if err != nil {
				return c.why(err)
			}
			c.m.add(s, sender)
		}
	}
	return nil
}

// measure is the time in which data flows.
func (c *client) measure() error {
	c.m.gate.serve(c.m, c.m.sendingWorkers())
	if c.cfg.OnStart != nil {
		c.cfg.OnStart(c.m.res)
	}
	if err := c.m.beginReceiving(); err != nil {
		return err
	}
	c.m.beginSending()
	clk := newTestClock(c.cfg.Omit, c.cfg.Duration, c.cfg.Interval)
	defer clk.stop()
	ch := c.watch()
	var failed error
	var patience <-chan time.Time
	for {
		select {
		case <-clk.omit():
			c.m.endOmit()
			clk.restartInterval()
		case <-clk.tick():
			c.m.report()
		case <-clk.end():
			return c.ended(ch)
		case <-c.cfg.Gate.over():
			return c.ended(ch)
		case <-c.m.exhausted:
			return c.ended(ch)
		case failed = <-c.m.failed:
			// The server probably says why on the control connection.
			if patience == nil {
				patience = time.After(failureGrace)
			}
		case <-patience:
			c.unwatch(ch)
			return c.why(failed)
		case msg := <-ch:
			if msg.err != nil {
				if errors.Is(msg.err, io.EOF) {
					return errors.Join(fmt.Errorf("the server at %v closed the control connection during the test", c.to.addr), failed)
				}
				return msg.err
			}
			return c.unexpected(msg.state, iperf.ExchangeResults)
		}
	}
}

// ended gives up waiting for a message; one that came just then still counts.
func (c *client) ended(ch <-chan message) error {
	if s, ok := c.unwatch(ch); ok {
		return c.unexpected(s, iperf.ExchangeResults)
	}
	return nil
}

// finish ends the test and exchanges results.
func (c *client) finish() error {
	c.m.freeze()
	if err := c.send(iperf.TestEnd, handshakeTimeout); err != nil {
		return err
	}
	if err := c.expect(iperf.ExchangeResults, streamTimeout); err != nil {
		return err
	}
	c.deadline(streamTimeout)
	if err := iperf.WriteFrame(c.conn, c.m.outgoing()); err != nil {
		return c.why(fmt.Errorf("sending the results: %w", err))
	}
	theirs, err := iperf.ReadResults(c.conn)
	if err != nil {
		return c.why(err)
	}
	c.m.merge(theirs)
	if err := c.expect(iperf.DisplayResults, streamTimeout); err != nil {
		return err
	}
	return c.send(iperf.Done, handshakeTimeout)
}
