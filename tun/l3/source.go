// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"kohaku/tun"
)

// A source is where a Device gets its batches from. wait, read and release
// belong to one goroutine.
type source interface {
	// wait blocks until read may have something, kick was called, or the
	// device is closed or gone.
	wait()
	// read returns a batch with at least one packet, to be given back with
	// release; nil when there is none now. An error means that the device is
	// gone or closed.
	read() (*batch, error)
	release(*batch)
	// kick ends a wait that is under way, or else the next one.
	kick()
	// close is called after the TUN itself was closed, and waits for whatever
	// goroutine there is.
	close()
}

// reader is the TUN with the decision what its errors mean.
type reader struct {
	dev    wgtun.Device
	name   string
	count  *counters
	closed *atomic.Bool
	faults int // in a row
}

// maxFaults is how many reads in a row may fail for reasons of their own before
// the device counts as gone.
const maxFaults = 64

// read fills b. No error and an empty b means that the call is to be repeated.
func (r *reader) read(b *batch) error {
	n, err := r.dev.Read(b.bufs, b.sizes, packetOffset)
	b.n, b.next = max(n, 0), 0
	if err == nil {
		r.faults = 0
		return nil
	}
	var errno syscall.Errno
	switch {
	case r.closed.Load():
		return fmt.Errorf("%s: %w", r.name, net.ErrClosed)
	case errors.Is(err, os.ErrDeadlineExceeded): // kicked
		return nil
	case errors.Is(err, os.ErrClosed), errors.Is(err, io.EOF), errors.As(err, &errno):
		return fmt.Errorf("%s: %w: read: %w", r.name, tun.ErrGone, err)
	}
	// One packet that could not be split, or described. A super-frame of more
	// segments than a batch holds loses the rest, as often as it happens.
	r.count.drop(DropReadFailed, 1)
	if errors.Is(err, wgtun.ErrTooManySegments) {
		return nil
	}
	if r.faults++; r.faults == maxFaults {
		return fmt.Errorf("%s: %w: read: %w", r.name, tun.ErrGone, err)
	}
	return nil
}

// pump is the source for a TUN that cannot say when it is readable: a goroutine
// reads ahead into a few batches.
type pump struct {
	reader
	free, full chan *batch
	kicked     chan struct{}
	ended      chan struct{} // closed when the goroutine has ended; err is set
	err        error
	next       *batch // taken by wait, for read
	wg         sync.WaitGroup
}

// pumpPackets is how many packets a pump reads ahead.
const pumpPackets = 16

func newPump(r reader, batchSize int) *pump {
	n := max(pumpPackets/batchSize, 2)
	p := &pump{reader: r, free: make(chan *batch, n), full: make(chan *batch, n),
		kicked: make(chan struct{}, 1), ended: make(chan struct{})}
	for range n {
		p.free <- newBatch(batchSize)
	}
	p.wg.Add(1)
	go p.run()
	return p
}

func (p *pump) run() {
	defer p.wg.Done()
	defer close(p.ended)
	for {
		b := <-p.free
		if b == nil {
			p.err = fmt.Errorf("%s: %w", p.name, net.ErrClosed)
			return
		}
		for b.n = 0; b.n == 0; {
			if p.err = p.reader.read(b); p.err != nil {
				return
			}
		}
		p.full <- b
	}
}

func (p *pump) wait() {
	if p.next != nil {
		return
	}
	select {
	case p.next = <-p.full:
	case <-p.kicked:
	case <-p.ended:
	}
}

func (p *pump) read() (*batch, error) {
	if b := p.next; b != nil {
		p.next = nil
		return b, nil
	}
	select {
	case b := <-p.full:
		return b, nil
	default:
	}
	select {
	case <-p.ended:
		// What was read before the end is still good.
		select {
		case b := <-p.full:
			return b, nil
		default:
			return nil, p.err
		}
	default:
		return nil, nil
	}
}

func (p *pump) release(b *batch) { p.free <- b }

func (p *pump) kick() {
	select {
	case p.kicked <- struct{}{}:
	default:
	}
}

// close does not close the free channel, to which a reader may still give
// back; nil frees the goroutine from waiting for it. When there is no room for
// nil the goroutine does not wait.
func (p *pump) close() {
	select {
	case p.free <- nil:
	default:
	}
	p.wg.Wait()
}
