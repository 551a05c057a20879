// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"kohaku/encap"
	"kohaku/tun"
)

// queue is the Device's one tun.Queue.
type queue struct {
	dev  *Device
	next *stack.PacketBuffer // taken from the link, did not fit; the reader's
}

func (q *queue) Wait() error {
	d := q.dev
	if d.isClosed() {
		return d.errClosed()
	}
	if q.next != nil || d.link.NumQueued() > 0 {
		return nil
	}
	select {
	case <-d.ready:
		return nil
	case <-d.done:
		return d.errClosed()
	}
}

func (q *queue) Read(arena []byte, frames []tun.Frame) (n int, err error) {
	d := q.dev
	for n < len(frames) {
		if d.isClosed() {
			if q.next != nil {
				q.next.DecRef()
				q.next = nil
			}
			return n, d.errClosed()
		}
		p := q.next
		if p == nil {
			if p = d.link.Read(); p == nil {
				return n, nil
			}
		}
		q.next = nil
		size := tun.Headroom + p.Size()
		if size > len(arena) {
			q.next = p
			return n, nil
		}
		buf := arena[:size:size]
		copyPacket(buf[tun.Headroom:], p)
		frames[n] = tun.Frame{Buf: buf, Offload: offload(p)}
		n++
		p.DecRef()
		// Keep the next frame as aligned as this one.
		arena = arena[min((size+7)&^7, len(arena)):]
	}
	return n, nil
}

// copyPacket copies a packet's bytes, headers included, without the slice of
// slices that AsSlices would make.
func copyPacket(b []byte, p *stack.PacketBuffer) {
	views, skip := p.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		s := v.AsSlice()
		k := min(skip, len(s))
		skip -= k
		b = b[copy(b, s[k:]):]
	}
}

// offload says what gVisor left to do. It leaves the checksum to us for all of
// a connection's segments, also for those that need no segmentation.
func offload(p *stack.PacketBuffer) (o encap.Offload) {
	g := &p.GSOOptions
	if g.Type == stack.GSONone || !g.NeedsCsum {
		return o
	}
	o.NeedsCsum = true
	o.CsumStart = encap.EthernetLen + g.L3HdrLen
	o.CsumOffset = g.CsumOffset
	if p.Data().Size() <= int(g.MSS) {
		return o
	}
	o.GSO, o.SegSize = encap.GSOTCP4, g.MSS
	if g.Type == stack.GSOTCPv6 {
		o.GSO = encap.GSOTCP6
	}
	o.HdrLen = uint16(p.Size() - p.Data().Size())
	return o
}

// Write implements tun.Queue. gVisor takes everything, dropping what it does
// not like, so the only error is that the Device is closed.
func (q *queue) Write(frames []encap.Run) (int, error) {
	d := q.dev
	for i := range frames {
		if d.isClosed() {
			return i, d.errClosed()
		}
		d.inject(&frames[i])
	}
	return len(frames), nil
}

// inject copies one frame, since gVisor keeps it, and hands it to the stack.
func (d *Device) inject(r *encap.Run) {
	size := 0
	for _, p := range r.Parts {
		size += len(p)
	}
	if size < encap.EthernetLen || size > tun.MaxFrame {
		d.dropped.Add(1)
		return
	}
	v := buffer.NewViewSize(size)
	frame := v.AsSlice()
	b := frame
	for _, p := range r.Parts {
		b = b[copy(b, p):]
	}
	// The stack leaves it to the hardware to look at the destination.
	if [6]byte(frame) != d.mac && frame[0]&1 == 0 {
		d.dropped.Add(1)
		v.Release()
		return
	}
	// gVisor knows "verified" of an interface only, not of a packet, so it is
	// going to verify this sum.
	if encap.FinishChecksum(frame, r.Offload) != nil {
		d.dropped.Add(1)
		v.Release()
		return
	}
	p := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	d.link.InjectInbound(0, p) // the Ethernet header tells the protocol
	p.DecRef()
}
