// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"

	"kohaku/encap"
	"kohaku/tun"
)

const (
	txArena  = 256 << 10 // at least tun.MinArena; small frames lie in it close together
	txFrames = 64

	// maxUDPSend is the most that one UDP_SEGMENT call takes, over IPv4 (the
	// kernel builds one IP packet of it first) and, to be simple, over IPv6.
	maxUDPSend = 65535 - 20 - 8
)

// A txContext is everything that turning frames into datagrams needs. Each
// poller has one, and at most cap(Engine.contexts) more exist for queues without
// a descriptor, however many tunnels there are.
type txContext struct {
	engine *Engine
	arena  []byte
	frames []tun.Frame
	cut    encap.Cutter
	parts  [][]byte
	msg    outMessage
}

func newTxContext(e *Engine) *txContext {
	c := &txContext{
		engine: e,
		arena:  make([]byte, txArena),
		frames: make([]tun.Frame, txFrames),
		parts:  make([][]byte, 0, 2*encap.MaxSegments),
	}
	c.msg.init()
	return c
}

func (e *Engine) borrow() *txContext {
	if c := <-e.contexts; c != nil {
		return c
	}
	return newTxContext(e)
}

func (e *Engine) giveBack(c *txContext) { e.contexts <- c }

// transmit is the goroutine of a queue that has no descriptor.
func (t *tunnel) transmit(q tun.Queue) {
	defer t.wg.Done()
	for {
		if err := q.Wait(); err != nil {
			return // closed
		}
		c := t.engine.borrow()
		err := c.drain(t, q)
		t.engine.giveBack(c)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				t.fail(err)
			}
			return
		}
	}
}

// drainBudget bounds how long a busy queue keeps a context from the others.
const drainBudget = 64

// drain sends what is queued.
func (c *txContext) drain(t *tunnel, q tun.Queue) error {
	for range drainBudget {
		n, err := q.Read(c.arena, c.frames)
		if n > 0 {
			c.sendFrames(t, c.frames[:n])
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		if n < len(c.frames) && c.frames[n-1].Offload.GSO == encap.GSONone {
			return nil // Read met the end of the queue; Wait will tell if more came
		}
	}
	return nil
}

// sendFrames sends frames of one tunnel in order. All go to one peer, so runs
// of equal length with one source socket leave in one call each.
func (c *txContext) sendFrames(t *tunnel, frames []tun.Frame) {
	p := t.peer.Load()
	m := &c.msg
	m.start(p)
	var bytes, super int
	for i := range frames {
		f := &frames[i]
		data := f.Data()
		if len(data) < encap.EthernetLen {
			t.drops.add(DropFrameShort, 1)
			continue
		}
		bytes += len(data)
		flow := encap.FlowHash(data)
		var ecn encap.ECN
		if tos, ok := encap.TOS(data); ok {
			ecn = encap.ECN(tos & 3)
		}
		pkt := f.Buf[tun.Headroom-encap.HeaderLen:]
		if f.Offload.GSO != encap.GSONone {
			super++
			c.flush(t, p)
			if err := c.cut.Start(t.vni, pkt, f.Offload); err != nil {
				t.drops.add(DropBadOffload, 1)
				continue
			}
			c.sendSuper(t, p, flow, ecn)
			continue
		}
		if err := encap.FinishChecksum(data, f.Offload); err != nil {
			t.drops.add(DropBadOffload, 1)
			continue
		}
		encap.PutHeader(pkt, t.vni)
		if !m.fits(flow, ecn, len(pkt)) {
			c.flush(t, p)
		}
		m.addDatagram(flow, ecn, pkt)
	}
	c.flush(t, p)
	t.tx.bytes.Add(uint64(bytes))
	if super > 0 {
		t.tx.super.Add(uint64(super))
	}
}

// sendSuper sends the super-frame that c.cut was started with. When it takes
// more than one call they are made equal, since the receiver merges what
// arrives in one call and a short rest costs as much as a whole.
func (c *txContext) sendSuper(t *tunnel, p *peer, flow uint32, ecn encap.ECN) {
	size := c.cut.DatagramLen()
	per := min(encap.MaxSegments, max(maxUDPSend/size, 1))
	total := c.cut.Segments()
	calls := (total + per - 1) / per
	per = (total + calls - 1) / calls
	for {
		var n int
		c.parts, n = c.cut.Next(c.parts[:0], per)
		if n == 0 {
			return
		}
		c.msg.addParts(flow, ecn, c.parts, n, size)
		c.flush(t, p)
	}
}

// flush sends what has been collected in c.msg, and counts.
func (c *txContext) flush(t *tunnel, p *peer) {
	m := &c.msg
	n := m.count
	if n == 0 {
		return
	}
	sockets := c.engine.source4
	if p.v6 {
		sockets = c.engine.source6
	}
	s := sockets[m.flow%uint32(len(sockets))]
	limit := int(p.gsoLimit.Load())
	if n > 1 && !c.engine.gsoOff.Load() && (limit == 0 || m.size < limit) {
		err := s.send(m.segmented())
		t.tx.calls.Add(1)
		switch err {
		case nil:
			t.tx.frames.Add(uint64(n))
			m.reset()
			return
		case unix.EIO:
			// The device below cannot do transmit checksums, which old kernels
			// demand for UDP_SEGMENT (net/ipv4/udp.c, udp_send_skb).
			if !c.engine.gsoOff.Swap(true) {
				c.engine.log.Warn("the kernel refuses UDP_SEGMENT, sending datagrams one by one from now on", "error", err)
			}
		case unix.EINVAL, unix.EMSGSIZE:
			// The path takes only smaller packets. One by one they can be
			// fragmented.
			p.gsoLimit.Store(int32(m.size))
		default:
			t.drops.add(sendDrop(err), n)
			m.reset()
			return
		}
	}
	// Nothing of the batch has left: UDP_SEGMENT sends all or nothing.
	m.eachDatagram(func(d *rawMessage) {
		err := s.send(d)
		t.tx.calls.Add(1)
		if err != nil {
			t.drops.add(sendDrop(err), 1)
			return
		}
		t.tx.frames.Add(1)
	})
	m.reset()
}

// sendDrop names what a failed send means for the frames in it.
func sendDrop(err error) Drop {
	switch err {
	case unix.EMSGSIZE:
		return DropTooLong
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL, unix.ENODEV, unix.ECONNREFUSED:
		return DropNoRoute
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return DropSocketFull
	}
	return DropSendRefused
}
