// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"kohaku/encap"
	"kohaku/tun"
)

// queue is the Device's one tun.Queue.
type queue struct {
	dev *Device
	cur *batch // what Read is in the middle of; the reader's
}

func (q *queue) Wait() error {
	d := q.dev
	if q.cur == nil {
		d.mu.Lock()
		idle := d.out.empty()
		d.mu.Unlock()
		if idle && !d.closed.Load() {
			d.src.wait()
		}
	}
	if d.closed.Load() {
		return d.errClosed()
	}
	return nil
}

func (d *Device) errClosed() error { return fmt.Errorf("%s: %w", d.name, net.ErrClosed) }

func (q *queue) Read(arena []byte, frames []tun.Frame) (n int, err error) {
	d := q.dev
	for {
		if d.closed.Load() {
			return n, d.errClosed()
		}
		d.mu.Lock()
		var more bool
		n, arena, more = d.outgoing(q, arena, frames, n)
		d.arm()
		d.mu.Unlock()
		if more || n == len(frames) {
			return n, nil
		}
		if q.cur != nil {
			d.src.release(q.cur)
			q.cur = nil
		}
		if q.cur, err = d.src.read(); q.cur == nil {
			return n, err
		}
	}
}

// outgoing moves what is there into frames: first the outbox, then the batch.
// It reports more when there is no room for all. Called with the mutex held.
func (d *Device) outgoing(q *queue, arena []byte, frames []tun.Frame, n int) (int, []byte, bool) {
	place := func(size int) []byte {
		if n == len(frames) || len(arena) < tun.Headroom+size {
			return nil
		}
		buf := arena[: tun.Headroom+size : tun.Headroom+size]
		frames[n] = tun.Frame{Buf: buf}
		n++
		// Keep the next frame as aligned as this one.
		arena = arena[min((len(buf)+7)&^7, len(arena)):]
		return buf[tun.Headroom:]
	}
	for {
		for !d.out.empty() {
			f := place(len(d.out.front()))
			if f == nil {
				return n, arena, true
			}
			copy(f, d.out.front())
			d.out.pop()
		}
		b := q.cur
		if b == nil || b.next == b.n {
			return n, arena, false
		}
		now := time.Now()
		// A request that this makes goes out before the packets behind it, and
		// so do packets that were released.
		for b.next < b.n && d.out.empty() {
			raw := b.packet(b.next)
			p, to, why := d.address(raw, now)
			if why == numDrops {
				mendUDPChecksum(raw[:p.length], &p)
			}
			switch {
			case why != numDrops:
				d.count.drop(why, 1)
			case to.wait != nil:
				f := make([]byte, ethLen+p.length)
				putEthernet(f, [6]byte{}, d.mac, p.etherType)
				copy(f[ethLen:], raw)
				d.table.wait(to.wait, f)
			default:
				f := place(ethLen + p.length)
				if f == nil {
					return n, arena, true
				}
				putEthernet(f, to.mac, d.mac, p.etherType)
				copy(f[ethLen:], raw)
			}
			b.next++
		}
	}
}

// destination is where a packet goes: to a MAC address, or to wait.
type destination struct {
	mac  [6]byte
	wait *neighbour
}

// address finds the destination of a packet from the kernel. A Drop other than
// numDrops means that it has none.
func (d *Device) address(raw []byte, now time.Time) (p ipPacket, to destination, why Drop) {
	p, ok := parseIP(raw)
	if !ok || p.dst.IsUnspecified() {
		return p, to, DropPacket
	}
	if p.dst.IsMulticast() {
		return p, destination{mac: groupMAC(p.dst)}, numDrops
	}
	if p.dst == netip.AddrFrom4([4]byte(broadcastMAC[:4])) {
		return p, destination{mac: broadcastMAC}, numDrops
	}
	hop, broadcast := d.routes.next(p.dst)
	switch {
	case !hop.IsValid():
		return p, to, DropNoRoute
	case broadcast:
		return p, destination{mac: broadcastMAC}, numDrops
	}
	n := d.table.resolve(hop, p.src, now)
	if !n.known {
		return p, destination{wait: n}, numDrops
	}
	return p, destination{mac: n.mac}, numDrops
}

// Write implements tun.Queue. Packets reach the TUN in batches, which it may
// merge, so when the kernel refuses some it is not known which: all are then
// counted in Stats, and the error is reported once, for the last of the batch.
func (q *queue) Write(frames []encap.Run) (int, error) {
	d := q.dev
	if d.closed.Load() {
		return 0, d.errClosed()
	}
	b := fullBatches.get()
	used, k := 0, 0 // buffers touched, packets ready
	defer func() {
		b.restore(used)
		fullBatches.put(b)
	}()
	limit := max(min(d.dev.BatchSize(), fullBatch), 1)
	for i := range frames {
		r := &frames[i]
		if r.Offload.GSO != encap.GSONone {
			d.count.drop(DropSuperFrame, 1)
			if err := d.deliver(b, k); err != nil && i > 0 {
				return i - 1, err
			}
			return i, &tun.WriteError{Device: d.name, Super: true, Err: syscall.EINVAL}
		}
		used = max(used, k+1)
		if !d.incoming(b, k, r) {
			continue
		}
		if k++; k == limit {
			if err := d.deliver(b, k); err != nil {
				return i, err
			}
			b.restore(used)
			used, k = 0, 0
		}
	}
	if err := d.deliver(b, k); err != nil {
		return len(frames) - 1, err
	}
	return len(frames), nil
}

// incoming copies a frame into buffer k and looks at it. It reports true when
// there is a packet for the kernel in the buffer.
func (d *Device) incoming(b *batch, k int, r *encap.Run) bool {
	buf := b.bufs[k][:bufferLen]
	end := packetOffset - ethLen
	for _, part := range r.Parts {
		if len(part) > len(buf)-end {
			d.count.drop(DropTooLong, 1)
			return false
		}
		end += copy(buf[end:], part)
	}
	n, why := d.classify(buf[packetOffset-ethLen:end], r.Offload)
	switch {
	case why != numDrops:
		d.count.drop(why, 1)
		return false
	case n == 0:
		return false
	}
	b.bufs[k] = buf[:packetOffset+n]
	return true
}

// deliver writes the first k packets of b to the TUN.
func (d *Device) deliver(b *batch, k int) error {
	if k == 0 {
		return nil
	}
	var err error
	if d.single.Load() {
		for i := range k {
			if _, e := d.dev.Write(b.bufs[i:i+1], packetOffset); e != nil {
				d.count.drop(DropWriteFailed, 1)
				err = e
			}
		}
	} else if _, err = d.dev.Write(b.bufs[:k], packetOffset); err != nil {
		d.count.drop(DropWriteFailed, k)
		if k > 1 && errors.Is(err, syscall.EINVAL) && !d.single.Swap(true) {
			// Some kernels offer super-frames and refuse them. Writing these
			// again could deliver some of them twice.
			d.opts.Log.Warn("the kernel refuses merged packets, writing them one by one from now on", "device", d.name, "error", err)
		}
	}
	switch {
	case err == nil:
		return nil
	case d.closed.Load():
		return d.errClosed()
	case errors.Is(err, os.ErrClosed):
		return fmt.Errorf("%s: %w: write: %w", d.name, tun.ErrGone, err)
	}
	return &tun.WriteError{Device: d.name, Err: err}
}
