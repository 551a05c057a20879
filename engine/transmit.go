// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"golang.org/x/sys/unix"

	"kohaku/encap"
	"kohaku/tun"
)

const (
	txArena  = 256 << 10 // at least tun.MinArena; small frames lie in it close together
	txFrames = 64
)

// A txContext is everything that turning frames into datagrams needs. Each
// worker has one, and at most cap(Engine.contexts) more exist for queues without
// a descriptor, however many tunnels there are.
//
// What is left of one read, too little to be worth a call, leaves together with the
// begin of the next: a super-frame of 64 KiB is just too long for one call.
type txContext struct {
	engine *Engine
	stages *stages
	arena  []byte
	skew   skew // of arena
	frames []tun.Frame
	cut    encap.Cutter
	msg    outMessage
	peer   *peer // that msg is for
	answer [encap.MaxTooBig]byte
}

func newTxContext(e *Engine, s *stages) *txContext {
	c := &txContext{
		engine: e,
		stages: s,
		arena:  make([]byte, txArena+maxSkew),
		frames: make([]tun.Frame, txFrames),
	}
	c.msg.init()
	return c
}

func (e *Engine) borrow() *txContext {
	if c := <-e.contexts; c != nil {
		return c
	}
	return newTxContext(e, &e.stages)
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
			t.fail(err)
			return
		}
	}
}

// drainBudget bounds how long a busy queue keeps a context from the others.
const drainBudget = 64

// drain sends what is queued.
func (c *txContext) drain(t *tunnel, q tun.Queue) error {
	defer c.flush(t)
	for range drainBudget {
		n, err := q.Read(c.arena[c.skew.next():], c.frames)
		if n > 0 {
			c.stages.reads.Add(1)
			c.stages.framesRead.Add(uint64(n))
			c.sendFrames(t, q, c.frames[:n])
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

// sendFrames sends frames of one tunnel, in order. All go to one peer, so runs of
// equal length with one source socket leave in one call each; the last of them may
// stay in c.msg until the next flush. q is where the frames came from, and takes what
// the sender has to be told.
func (c *txContext) sendFrames(t *tunnel, q tun.Queue, frames []tun.Frame) {
	p := t.peer.Load()
	mtu := c.engine.path.innerMTU(p)
	if p.circular.Load() {
		t.drops.add(DropLoop, len(frames))
		return
	}
	m := &c.msg
	if c.peer != p {
		c.flush(t)
		m.start(p)
		c.peer = p
	}
	var bytes, super int
	for i := range frames {
		f := &frames[i]
		data := f.Data()
		if len(data) < encap.EthernetLen {
			t.drops.add(DropFrameShort, 1)
			continue
		}
		bytes += len(data)
		if mtu > 0 && len(data) > int(mtu)+encap.EthernetLen && c.tooLarge(t, q, f, mtu) {
			continue
		}
		if d, ok := encap.UDPDestination(data); ok && d.Port() == c.engine.port && d.Addr() == p.Remote {
			t.drops.add(DropLoop, 1)
			continue
		}
		flow := encap.FlowHash(data)
		tos := p.outerTOS(data)
		pkt := f.Buf[tun.Headroom-encap.HeaderLen:]
		if f.Offload.GSO != encap.GSONone {
			super++
			if err := c.cut.Start(t.vni, pkt, f.Offload); err != nil {
				t.drops.add(DropBadOffload, 1)
				continue
			}
			c.sendSuper(t, flow, tos)
			continue
		}
		if err := encap.FinishChecksum(data, f.Offload); err != nil {
			t.drops.add(DropBadOffload, 1)
			continue
		}
		encap.PutHeader(pkt, t.vni)
		if !m.fits(flow, tos, len(pkt)) {
			c.flush(t)
		}
		m.addDatagram(flow, tos, pkt)
	}
	t.tx.bytes.Add(uint64(bytes))
	c.stages.bytes.Add(uint64(bytes))
	if super > 0 {
		t.tx.super.Add(uint64(super))
	}
}

// outerTOS is the outer TOS for a frame: the ECN field is always the inner
// packet's (RFC 6040 section 4.1, normal mode).
func (p *peer) outerTOS(frame []byte) uint8 {
	outer := p.TOS &^ 3
	inner, ok := encap.TOS(frame)
	switch {
	case !ok:
		return outer
	case p.InheritTOS:
		return inner
	}
	return outer | inner&3
}

// tooLarge deals with a frame, or a super-frame's segments, that the path to
// the peer does not take whole. It reports whether the frame is done with: its
// sender was told, or could not be. The kernel's driver does the same
// (net/ipv4/ip_tunnel_core.c, skb_tunnel_check_pmtu).
func (c *txContext) tooLarge(t *tunnel, q tun.Queue, f *tun.Frame, mtu encap.InnerMTU) bool {
	seg := 0
	if f.Offload.GSO != encap.GSONone {
		seg = int(f.Offload.SegSize)
	}
	switch encap.PacketFit(f.Data(), seg, mtu) {
	case encap.Fits, encap.Fragmentable: // the outer packet is fragmented, unless DF says otherwise
		return false
	}
	n := encap.TooBig(c.answer[:], f.Data(), mtu)
	if n == 0 {
		return false
	}
	t.drops.add(DropTooLong, 1)
	_, _ = q.Write([]encap.Run{{Parts: [][]byte{c.answer[:n]}}}) // a sender that is not told tries again
	return true
}

// sendSuper sends the super-frame that c.cut was started with, but for a rest that
// does not fill a call and stays in c.msg.
func (c *txContext) sendSuper(t *tunnel, flow uint32, tos uint8) {
	m, size := &c.msg, c.cut.DatagramLen()
	if m.count > 0 && (size != m.size || !m.fits(flow, tos, size)) {
		c.flush(t)
	}
	for {
		room := m.room(size)
		if room == 0 {
			c.flush(t)
			room = m.room(size)
		}
		n, bytes := c.cut.Next(m.space(), room)
		if n == 0 {
			return
		}
		m.added(flow, tos, n, bytes, size)
	}
}

// flush sends what has been collected in c.msg, and counts.
func (c *txContext) flush(t *tunnel) {
	m := &c.msg
	if m.count > 0 {
		c.send(t, c.peer)
	}
	m.reset()
}

// send is flush's when there is something.
func (c *txContext) send(t *tunnel, p *peer) {
	m := &c.msg
	n := m.count
	s := p.sockets[m.flow%sourceSockets]
	limit := int(p.gsoLimit.Load())
	tooLarge := false
	if n > 1 && !c.engine.gsoOff.Load() && (limit == 0 || m.size < limit) {
		err := s.send(m.segmented(), c.stages)
		t.tx.calls.Add(1)
		switch err {
		case nil:
			t.tx.frames.Add(uint64(n))
			c.stages.sent.Add(uint64(n))
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
			tooLarge = true
		default:
			t.drops.add(sendDrop(err), n)
			return
		}
	}
	// Nothing of the batch has left: UDP_SEGMENT sends all or nothing.
	m.eachDatagram(func(d *rawMessage) {
		err := s.send(d, c.stages)
		t.tx.calls.Add(1)
		if err != nil {
			t.drops.add(sendDrop(err), 1)
			return
		}
		if tooLarge { // had it been refused, too, its size would not be why
			p.gsoLimit.Store(int32(m.size))
		}
		t.tx.frames.Add(1)
		c.stages.sent.Add(1)
	})
}

// sendDrop names what a failed send means for the frames in it.
func sendDrop(err error) Drop {
	switch err {
	case unix.EMSGSIZE:
		return DropTooLong
	case unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENETDOWN, unix.EADDRNOTAVAIL, unix.ENODEV, unix.ENXIO, unix.ECONNREFUSED,
		unix.EINVAL: // our own address is no longer the machine's (net/ipv4/route.c, ip_route_output_key_hash_rcu)
		return DropNoRoute
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM:
		return DropSocketFull
	}
	return DropSendRefused
}
