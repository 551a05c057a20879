// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Gate lets a test send for a moment at a time. Tests over several paths can so
// take turns many times a second, on connections that stay: what changes on the
// machine meanwhile meets all of them, and their ratio is known much better than
// from tests one after the other. A gate serves one test, in which this end
// sends, as fast as it goes.
type Gate struct {
	closes atomic.Int64  // when, of clock
	end    chan struct{} // closed by End
	once   sync.Once

	mu      sync.Mutex
	change  sync.Cond // of what follows, or the gate was opened
	test    *measurement
	workers int // that send
	parked  int // of them, those that wait for the gate
}

// Turn is what a machine and a process did while a gate was open and until all
// that was sent then had been acknowledged.
type Turn struct {
	Late    time.Duration // after its time the gate opened
	Machine MachineCPU
	CPU     ProcessCPU
	// Drain is how long after the gate closed that was; with UDP, which nobody
	// acknowledges, when the last call had returned.
	Drain time.Duration
}

// drainLimit is how long a closed gate waits for what was sent to be acknowledged.
const drainLimit = 2 * time.Second

// NewGate makes a gate that is closed.
func NewGate() *Gate {
	g := &Gate{end: make(chan struct{})}
	g.change.L = &g.mu
	return g
}

// Open waits until from, lets the test send until a time (both by Now), and
// returns when nothing of it is on its way any more. Before the test has begun, or
// after it ended, that is an error.
func (g *Gate) Open(from, until time.Duration) (Turn, error) {
	if err := g.idle(); err != nil {
		return Turn{}, err
	}
	sleepUntil(from)
	begin, err := markCPU()
	if err != nil {
		return Turn{}, err
	}
	g.mu.Lock()
	g.closes.Store(int64(until - ahead))
	g.change.Broadcast()
	g.mu.Unlock()
	late := Now() - from
	sleepUntil(until)
	if err := g.idle(); err != nil {
		return Turn{}, err
	}
	if err := g.drained(); err != nil {
		return Turn{}, err
	}
	drain := Now() - until
	end, err := markCPU()
	if err != nil {
		return Turn{}, err
	}
	return Turn{Late: late, Machine: begin.since(end), CPU: begin.process(end), Drain: drain}, nil
}

// sleepUntil sleeps until a time by Now; signals, by which the runtime stops
// threads, cut a sleep short.
func sleepUntil(t time.Duration) {
	for left := t - Now(); left > 0; left = t - Now() {
		sleep(left)
	}
}

var errGateWithoutTest = errors.New("the test behind this gate has not begun, or is over")

// idle waits until all of the test's senders wait for the gate.
func (g *Gate) idle() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.test != nil && g.parked < g.workers {
		g.change.Wait()
	}
	if g.test == nil {
		return errGateWithoutTest
	}
	return nil
}

// drained waits until what TCP streams sent is acknowledged. The senders wait, so
// that their sockets are in nobody's hands.
func (g *Gate) drained() error {
	limit := clock() + drainLimit
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		if g.test == nil {
			return errGateWithoutTest
		}
		waiting := 0
		if g.test.params.TCP {
			for _, s := range g.test.direction(true) {
				n, err := unix.IoctlGetInt(s.sock.fd, unix.SIOCOUTQ)
				if err != nil {
					return fmt.Errorf("asking how much is not acknowledged: %w", err)
				}
				waiting += n
			}
		}
		if waiting == 0 {
			return nil
		}
		if clock() > limit {
			return fmt.Errorf("%d bytes are not acknowledged %v after they were sent", waiting, drainLimit)
		}
		g.mu.Unlock()
		sleep(200 * time.Microsecond)
		g.mu.Lock()
	}
}

// End ends the test as its duration would.
func (g *Gate) End() { g.once.Do(func() { close(g.end) }) }

// over is ready when the test is to end; the nil gate's never is.
func (g *Gate) over() <-chan struct{} {
	if g == nil {
		return nil
	}
	return g.end
}

// serve gives the gate its test.
func (g *Gate) serve(m *measurement, workers int) {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.test, g.workers, g.parked = m, workers, 0
	g.change.Broadcast()
}

// leave takes the test away: workers go on, to see that it is over.
func (g *Gate) leave() { g.serve(nil, 0) }

// wait keeps a sender while the gate is closed.
func (g *Gate) wait() {
	if g == nil || int64(clock()) < g.closes.Load() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.parked++
	g.change.Broadcast()
	for g.test != nil && int64(clock()) >= g.closes.Load() {
		g.change.Wait()
	}
	g.parked--
}
