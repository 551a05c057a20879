// SPDX-License-Identifier: Apache-2.0

// Package tuntest has a tun.Device in memory, for tests of whatever sits on a
// device, without privileges and without a kernel's help.
package tuntest

import (
	"fmt"
	"net"
	"sync"

	"kohaku/encap"
	"kohaku/tun"
)

// A Device is a tun.Device whose other side is the test: Inject puts in what a
// kernel would send, Received takes out what was written.
type Device struct {
	name     string
	mac      [6]byte
	offloads tun.Offloads
	queues   []tun.Queue
	rx       chan Frame

	mu     sync.Mutex
	fail   error // what Read and Write answer, once set
	closed bool
}

// A Frame is one frame that the engine wrote, copied, with what it asked the
// kernel to do to it.
type Frame struct {
	Data    []byte
	Offload encap.Offload
	Queue   int
}

// Config says what New makes.
type Config struct {
	Name     string
	MAC      [6]byte
	Queues   int // 0: one
	Offloads tun.Offloads
	// Backlog is how many written frames wait for Received before Write
	// refuses more, as a kernel's queue would; 0: 1024.
	Backlog int
	// Pollable gives the queues a descriptor (tun.Pollable). Linux only; New
	// panics elsewhere.
	Pollable bool
}

// New returns an open device.
func New(c Config) *Device {
	if c.Backlog == 0 {
		c.Backlog = 1024
	}
	d := &Device{name: c.Name, mac: c.MAC, offloads: c.Offloads, rx: make(chan Frame, c.Backlog)}
	for i := range max(c.Queues, 1) {
		q := &queue{dev: d, index: i}
		q.cond = sync.NewCond(&d.mu)
		if c.Pollable {
			d.queues = append(d.queues, newPollable(q))
			continue
		}
		d.queues = append(d.queues, q)
	}
	return d
}

// Name implements tun.Device.
func (d *Device) Name() string { return d.name }

// Queues implements tun.Device.
func (d *Device) Queues() []tun.Queue { return d.queues }

// HardwareAddr implements tun.Device.
func (d *Device) HardwareAddr() [6]byte { return d.mac }

// Offloads implements tun.Device.
func (d *Device) Offloads() tun.Offloads { return d.offloads }

// Inject queues a copy of frame for the reader of queue i.
func (d *Device) Inject(i int, frame []byte, o encap.Offload) {
	q := d.queues[i].(inner).base()
	d.mu.Lock()
	defer d.mu.Unlock()
	q.pending = append(q.pending, Frame{Data: append([]byte(nil), frame...), Offload: o})
	q.wake()
}

// Received is what was written to the device, over all queues.
func (d *Device) Received() <-chan Frame { return d.rx }

// Fail makes the device behave as if somebody had deleted it.
func (d *Device) Fail() { d.end(fmt.Errorf("%s: %w", d.name, tun.ErrGone), false) }

// Close implements tun.Device.
func (d *Device) Close() error {
	d.end(fmt.Errorf("%s: %w", d.name, net.ErrClosed), true)
	return nil
}

// Closed reports whether Close was called.
func (d *Device) Closed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

func (d *Device) end(err error, closed bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail, d.closed = err, d.closed || closed
	for _, q := range d.queues {
		q.(inner).base().wake()
	}
}

// inner is both kinds of queues.
type inner interface{ base() *queue }

type queue struct {
	dev     *Device
	index   int
	cond    *sync.Cond // on dev.mu
	pending []Frame
	signal  func(readable bool) // of a pollable queue, else nil
}

func (q *queue) base() *queue { return q }

// wake tells the reader that there is something to see. Guarded by dev.mu.
func (q *queue) wake() {
	q.cond.Broadcast()
	if q.signal != nil {
		q.signal(true)
	}
}

func (q *queue) Wait() error {
	q.dev.mu.Lock()
	defer q.dev.mu.Unlock()
	for len(q.pending) == 0 && q.dev.fail == nil {
		q.cond.Wait()
	}
	if q.dev.closed {
		return q.dev.fail
	}
	return nil
}

func (q *queue) Read(arena []byte, frames []tun.Frame) (n int, err error) {
	q.dev.mu.Lock()
	defer q.dev.mu.Unlock()
	if q.dev.fail != nil {
		return 0, q.dev.fail
	}
	for n < len(frames) && len(q.pending) > 0 && len(arena) >= tun.MinArena {
		p := q.pending[0]
		q.pending = q.pending[1:]
		buf := arena[:tun.Headroom+len(p.Data)]
		copy(buf[tun.Headroom:], p.Data)
		frames[n] = tun.Frame{Buf: buf, Offload: p.Offload}
		n++
		arena = arena[len(buf):]
	}
	if len(q.pending) == 0 && q.signal != nil {
		q.signal(false)
	}
	return n, nil
}

func (q *queue) Write(frames []encap.Run) (int, error) {
	for i := range frames {
		q.dev.mu.Lock()
		err := q.dev.fail
		q.dev.mu.Unlock()
		if err != nil {
			return i, err
		}
		f := Frame{Offload: frames[i].Offload, Queue: q.index}
		for _, p := range frames[i].Parts {
			f.Data = append(f.Data, p...)
		}
		select {
		case q.dev.rx <- f:
		default:
			return i, &tun.WriteError{Device: q.dev.name, Super: f.Offload.GSO != encap.GSONone, Err: errFull}
		}
	}
	return len(frames), nil
}

var errFull = fmt.Errorf("nobody takes the frames out")
