// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"

	"golang.org/x/sys/unix"

	"kohaku/encap"
	"kohaku/tun"
)

const (
	rxMessages = 64      // per system call
	rxBuffer   = 1 << 16 // no datagram, merged or not, is longer

	// rxStride is from one message's buffer to the next. At a power of two all
	// messages would begin in the same few sets of the processor's caches, which hold
	// eight of them; behind one another, in terms of sets, lie messages up to 1.7 kB.
	rxStride = rxBuffer + 27*64
)

// A receiver is the half of a worker that takes datagrams to devices, with all
// memory that this takes.
type receiver struct {
	engine *Engine
	stages *stages
	index  int // of the worker
	in     *inMessages
	batch  int // how many messages the next system call may take
	merger encap.Merger

	// The tunnel of the frame before, with what was counted for it and is not
	// yet in its counters.
	last          *tunnel
	frames, bytes uint64

	// For super-frames that a device refuses; made when first needed.
	split *splitter
}

func newReceiver(e *Engine, index int, s *stages) *receiver {
	return &receiver{engine: e, stages: s, index: index, in: newInMessages(), batch: rxMessages}
}

// rxBytes is about what one system call should receive: what is received, looked at
// and passed on should meanwhile stay in the processor's nearest caches.
const rxBytes = 256 << 10

// batchAfter is how many messages to take next, after n of the given length
// altogether: where many super-frames wait, 64 of them would be 4 MiB, and each was
// written to memory and read from there twice. At least four, which can be merged.
func batchAfter(n, bytes int) int {
	return max(min(rxBytes*n/max(bytes, 1), rxMessages), 4)
}

// rxBudget bounds how many batches a busy socket keeps a worker from the rest.
const rxBudget = 8

// serve receives what is there, up to the budget, and delivers it.
func (r *receiver) serve(s *rxSocket) {
	for range rxBudget {
		asked := r.batch
		n, e := recvmmsg(s.fd, r.in, asked)
		if e != 0 {
			if e != unix.EAGAIN {
				s.note(r.engine.log, e)
			}
			return
		}
		r.stages.receives.Add(1)
		r.stages.messages.Add(uint64(n))
		s.came += n
		bytes := 0
		for i := range n {
			m := r.in.at(i)
			bytes += len(m.data)
			r.message(m)
		}
		r.deliver()
		r.account(nil)
		if n < asked {
			return
		}
		r.batch = batchAfter(n, bytes)
	}
}

// message takes one received message: a datagram, or with UDP_GRO several of
// equal length from one sender.
func (r *receiver) message(m inMessage) {
	if m.truncated {
		r.engine.drops.add(DropTruncated, 1)
		return
	}
	data, seg := m.data, m.segment
	if seg <= 0 || seg > len(data) {
		seg = len(data)
	}
	if len(data) == 0 {
		r.engine.drops.add(DropHeaderShort, 1)
		return
	}
	// From a kernel VXLAN device on this machine a UDP super-frame comes whole,
	// with the size of its segments where that of datagrams should be.
	if seg < len(data) && len(data) > encap.HeaderLen && encap.WholeSuperFrame(data[encap.HeaderLen:], seg, 0) {
		r.datagram(data, &m, seg)
		return
	}
	for len(data) > 0 {
		d := data[:min(seg, len(data))]
		data = data[len(d):]
		r.datagram(d, &m, 0)
	}
}

var headerDrops = [...]Drop{
	encap.HeaderShort:    DropHeaderShort,
	encap.HeaderNoVNI:    DropHeaderNoVNI,
	encap.HeaderReserved: DropHeaderReserved,
	encap.HeaderNoFrame:  DropFrameShort,
}

// datagram checks one datagram and gives its frame to the merger. segSize is not
// 0 for a datagram that holds a whole super-frame with segments of that size.
func (r *receiver) datagram(d []byte, m *inMessage, segSize int) {
	vni, fault := encap.ParseHeader(d)
	if fault != encap.HeaderOK && fault != encap.HeaderNoFrame {
		r.engine.drops.add(headerDrops[fault], 1)
		return
	}
	t := r.last
	if t == nil || t.vni != vni {
		if t = r.engine.lookup(vni); t == nil {
			r.engine.drops.add(DropUnknownVNI, 1)
			return
		}
		r.account(t)
	}
	if fault != encap.HeaderOK {
		t.drops.add(headerDrops[fault], 1)
		return
	}
	p := t.peer.Load()
	frame := d[encap.HeaderLen:]
	switch {
	case p.key != m.from:
		t.drops.add(DropWrongPeer, 1)
		return
	case frame[6]&1 != 0:
		t.drops.add(DropMulticastSource, 1)
		return
	case [6]byte(frame[6:12]) == t.mac:
		t.drops.add(DropOwnMAC, 1)
		return
	case !p.mayUse(frame):
		t.drops.add(DropSpoofedSource, 1)
		return
	case !m.ecn.Decapsulate(frame):
		t.drops.add(DropECN, 1)
		return
	}
	r.frames++
	r.bytes += uint64(len(frame))
	var mtu encap.InnerMTU
	if segSize == 0 && !p.mtu.certainlyFits(len(frame)) {
		mtu = r.engine.path.innerMTU(p)
	}
	if segSize > 0 || mtu > 0 && encap.WholeSuperFrame(frame, 0, mtu) {
		if !r.merger.AddSuper(frame, uint32(vni), segSize, mtu) {
			r.deliver()
			r.merger.AddSuper(frame, uint32(vni), segSize, mtu)
		}
		return
	}
	allow := encap.Allow{TCP: t.superTCP.Load(), UDP: t.superUDP.Load()}
	if !r.merger.Add(frame, uint32(vni), allow) {
		r.deliver()
		r.merger.Add(frame, uint32(vni), allow)
	}
}

// account writes down what was counted for the tunnel before and turns to t.
func (r *receiver) account(t *tunnel) {
	if r.last != nil && r.frames > 0 {
		r.stages.received.Add(r.frames)
		r.stages.bytes.Add(r.bytes)
		r.last.rx.frames.Add(r.frames)
		r.last.rx.bytes.Add(r.bytes)
	}
	r.last, r.frames, r.bytes = t, 0, 0
}

// deliver writes out what the merger holds.
func (r *receiver) deliver() {
	runs := r.merger.Runs()
	for len(runs) > 0 {
		n := 1
		for n < len(runs) && runs[n].Tag == runs[0].Tag {
			n++
		}
		if t := r.engine.lookup(encap.VNI(runs[0].Tag)); t != nil {
			r.write(t, runs[:n])
		}
		runs = runs[n:]
	}
	r.merger.Reset()
}

// write passes runs to the tunnel's device.
func (r *receiver) write(t *tunnel, runs []encap.Run) {
	var super, partial, frames uint64
	for i := range runs {
		frames += uint64(runs[i].Frames)
		runs[i].Finish()
		if runs[i].Offload.GSO != encap.GSONone {
			super++
		}
		if runs[i].Partial {
			partial++
		}
	}
	if super > 0 {
		t.rx.super.Add(super)
	}
	if partial > 0 {
		t.rx.partial.Add(partial)
	}
	r.stages.writes.Add(uint64(len(runs)))
	r.stages.written.Add(frames)
	q := t.queues[r.index%len(t.queues)]
	for len(runs) > 0 {
		n, err := q.Write(runs[:t.takes(runs)])
		runs = runs[n:]
		switch {
		case len(runs) == 0:
			return
		case err != nil:
			r.refused(t, q, &runs[0], err)
		case t.takes(runs[:1]) == 0:
			r.cutUp(t, q, &runs[0])
		default:
			continue
		}
		runs = runs[1:]
	}
}

// takes returns how many of the runs, from the first, the device can take as
// they are.
func (t *tunnel) takes(runs []encap.Run) int {
	for i := range runs {
		switch runs[i].Offload.GSO {
		case encap.GSONone:
		case encap.GSOUDP:
			if !t.superUDP.Load() {
				return i
			}
		default:
			if !t.superTCP.Load() {
				return i
			}
		}
	}
	return len(runs)
}

// refused deals with a run that the device did not take.
func (r *receiver) refused(t *tunnel, q tun.Queue, run *encap.Run, err error) {
	var we *tun.WriteError
	switch {
	case errors.As(err, &we):
		switch {
		case errors.Is(err, unix.EINVAL) && run.Offload.GSO != encap.GSONone:
			r.resend(t, q, run, err)
		case errors.Is(err, unix.EIO):
			t.drops.add(DropDeviceDown, run.Frames)
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			t.drops.add(DropDeviceFull, run.Frames)
		default:
			t.drops.add(DropDeviceRefused, run.Frames)
		}
	default:
		t.drops.add(DropDeviceGone, run.Frames)
		t.fail(err)
	}
}

// resend switches merging off for a device that refuses super-frames (some
// kernels do, though they offer them) and writes the refused one frame by
// frame.
func (r *receiver) resend(t *tunnel, q tun.Queue, run *encap.Run, err error) {
	which, kind := &t.superTCP, "TCP"
	if run.Offload.GSO == encap.GSOUDP {
		which, kind = &t.superUDP, "UDP"
	}
	if which.Swap(false) {
		r.engine.log.Warn("the kernel refuses super-frames, writing single frames from now on",
			"protocol", kind, "device", t.dev.Name(), "error", err)
	}
	r.cutUp(t, q, run)
}

// cutUp writes a super-frame as single frames.
func (r *receiver) cutUp(t *tunnel, q tun.Queue, run *encap.Run) {
	if r.split == nil {
		r.split = newSplitter()
	}
	for _, single := range r.split.split(run) {
		if _, err := q.Write([]encap.Run{single}); err != nil {
			t.drops.add(DropDeviceRefused, 1)
		}
	}
}
