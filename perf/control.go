// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"kohaku/perf/iperf"
)

// control is the control connection of one test. A context that is done ends
// every operation in progress and lets later ones fail at once; only goodbye
// still writes then.
type control struct {
	conn net.Conn
	ctx  context.Context
	stop func() bool // ends the context's hold on the connection

	mu sync.Mutex // orders deadlines against the context's end
}

// past is a time that makes every operation with it as deadline fail at once.
var past = time.Unix(1, 0)

func newControl(ctx context.Context, c net.Conn) *control {
	ctl := &control{conn: c, ctx: ctx}
	// Small messages; keepalive finds a peer that vanished in a long UDP test.
	if c, ok := c.(*net.TCPConn); ok {
		_ = c.SetNoDelay(true)
		_ = c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
	ctl.stop = context.AfterFunc(ctx, func() {
		ctl.mu.Lock()
		defer ctl.mu.Unlock()
		_ = c.SetDeadline(past)
	})
	return ctl
}

// deadline sets the time by which the next operations must be done.
func (c *control) deadline(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := time.Time{}
	if d > 0 {
		at = time.Now().Add(d)
	}
	if c.ctx.Err() != nil {
		at = past
	}
	_ = c.conn.SetDeadline(at)
}

// why replaces the error of an operation that the context ended by the context's.
func (c *control) why(err error) error {
	if err != nil && c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return err
}

// send writes one state.
func (c *control) send(s iperf.State, d time.Duration) error {
	c.deadline(d)
	if _, err := c.conn.Write([]byte{byte(s)}); err != nil {
		return c.why(fmt.Errorf("sending %v to %v: %w", s, c.conn.RemoteAddr(), err))
	}
	return nil
}

// recv reads one state.
func (c *control) recv(d time.Duration) (iperf.State, error) {
	c.deadline(d)
	var b [1]byte
	if _, err := c.conn.Read(b[:]); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) && c.ctx.Err() == nil {
			err = fmt.Errorf("%v did not answer within %v", c.conn.RemoteAddr(), d)
		}
		return 0, c.why(err)
	}
	return iperf.State(b[0]), nil
}

// message is what watch delivers.
type message struct {
	state iperf.State
	err   error
}

// watch reads one state without a time limit, in a goroutine that ends with the
// message or with unwatch.
func (c *control) watch() <-chan message {
	c.deadline(0)
	ch := make(chan message, 1)
	go func() {
		var b [1]byte
		_, err := c.conn.Read(b[:])
		ch <- message{iperf.State(b[0]), c.why(err)}
	}()
	return ch
}

// unwatch ends a watch whose message was not received yet and waits for its
// goroutine. ok tells that a state had arrived after all.
func (c *control) unwatch(ch <-chan message) (s iperf.State, ok bool) {
	c.mu.Lock()
	_ = c.conn.SetReadDeadline(past)
	c.mu.Unlock()
	msg := <-ch
	return msg.state, msg.err == nil
}

// goodbye tells the peer, whatever the context, that this end was interrupted.
// It is a courtesy: a failure changes nothing.
func (c *control) goodbye(s iperf.State) {
	c.stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_, _ = c.conn.Write([]byte{byte(s)})
}

// close closes the connection.
func (c *control) close() {
	c.stop()
	c.conn.Close()
}
