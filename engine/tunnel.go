// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"kohaku/encap"
	"kohaku/tun"
)

// tunnel is one VNI's device, peer and counters.
type tunnel struct {
	engine *Engine
	vni    encap.VNI
	dev    tun.Device
	mac    [6]byte
	queues []tun.Queue

	peer atomic.Pointer[peer]

	// What the device is handed merged. Starts as what it can take, and loses
	// what it refuses.
	superTCP, superUDP atomic.Bool

	rx, tx  traffic
	drops   dropCounters
	failure atomic.Pointer[Failure]
	wg      sync.WaitGroup // goroutines of queues without a descriptor
	polled  []polled       // the other queues; for start and stop alone
}

// polled is where a worker has a queue.
type polled struct {
	worker *worker
	slot   int
}

// traffic counts one direction. Bytes are those of inner frames, Ethernet
// header included.
type traffic struct {
	frames, bytes atomic.Uint64
	super         atomic.Uint64 // super-frames read from, or written to, the device
	calls         atomic.Uint64 // system calls that moved datagrams (sent only)
	partial       atomic.Uint64 // received with a checksum left to hardware
}

// peer is an immutable Peer, prepared for the hot path.
type peer struct {
	Peer
	key     addrKey // of Remote
	dest    sockaddr
	src     pktinfo
	v6      bool
	sockets []*sourceSocket
	mtu     pathMTU
	device  string // the tunnel's
	// circular is set while the route to the peer leads into the tunnel.
	circular atomic.Bool
	// Above this datagram length UDP_SEGMENT was refused for this peer, since
	// the path's MTU is smaller; 0 means no such limit is known.
	gsoLimit atomic.Int32
}

// newPeer checks and prepares a peer. Guarded by e.mu.
func (e *Engine) newPeer(p Peer, device string) (*peer, error) {
	r := p.Remote
	switch {
	case !r.IsValid():
		return nil, errors.New("the remote address is missing")
	case r.Is4In6():
		r = r.Unmap()
	}
	p.Remote, p.Local = r, p.Local.Unmap()
	switch {
	case r.IsUnspecified(), r.IsMulticast():
		return nil, fmt.Errorf("remote address %s: must be a single machine's", r)
	case p.Local.IsValid() && p.Local.Is4() != r.Is4():
		return nil, fmt.Errorf("local address %s and remote address %s are of different families", p.Local, r)
	case p.Local.IsValid() && p.Local.WithZone("") == r.WithZone(""):
		return nil, fmt.Errorf("remote address %s is our own: a tunnel to oneself is a loop", r)
	case !e.sources.listening(r.Is6()):
		return nil, fmt.Errorf("remote address %s: the engine listens on no address of this family", r)
	}
	if e.routes != nil {
		// No answer is no reason to refuse: the route may come later.
		if loop, err := e.routes.circular(r, device); err == nil && loop {
			return nil, fmt.Errorf("%w: remote address %s is routed into %s; give it a route through the underlay", ErrCircular, r, device)
		}
	}
	dest, key, err := newSockaddr(netip.AddrPortFrom(r, e.port))
	if err != nil {
		return nil, err
	}
	sockets, err := e.sources.get(r.Is6(), p.DF)
	if err != nil {
		return nil, fmt.Errorf("open a UDP socket to send from: %w", err)
	}
	return &peer{Peer: p, key: key, dest: dest, src: newPktinfo(p.Local), v6: r.Is6(), sockets: sockets, device: device}, nil
}

// mayUse reports whether the peer may use the frame's inner source address.
func (p *peer) mayUse(frame []byte) bool {
	if p.Sources == nil {
		return true
	}
	a, ok := encap.InnerSource(frame)
	if !ok || a.IsUnspecified() || a.Is6() && a.IsLinkLocalUnicast() {
		return true
	}
	for _, s := range p.Sources {
		if s.Contains(a) {
			return true
		}
	}
	return false
}

func newTunnel(e *Engine, v encap.VNI, d tun.Device) *tunnel {
	t := &tunnel{engine: e, vni: v, dev: d, mac: d.HardwareAddr(), queues: d.Queues()}
	t.superTCP.Store(d.Offloads().TSO)
	t.superUDP.Store(d.Offloads().USO)
	return t
}

// start begins to read the queues: those with a descriptor by the workers, the
// others each by a goroutine. Worker i serves queue i, since what it writes to
// that queue makes the kernel answer there (drivers/net/tun.c, tun_flow_update);
// with fewer queues than workers, tunnels are spread.
func (t *tunnel) start() error {
	for i, q := range t.queues {
		pq, ok := q.(tun.Pollable)
		if !ok {
			t.wg.Add(1)
			go t.transmit(q)
			continue
		}
		workers := t.engine.workers
		w := workers[i%len(workers)]
		if len(t.queues) < len(workers) {
			w = workers[(int(t.vni)+i)%len(workers)]
		}
		slot, err := w.add(t, pq)
		if err != nil {
			t.unpoll()
			return err
		}
		t.polled = append(t.polled, polled{w, slot})
	}
	return nil
}

// unpoll takes the queues from the workers.
func (t *tunnel) unpoll() {
	for _, p := range t.polled {
		p.worker.remove(p.slot, t)
	}
	t.polled = nil
}

func (t *tunnel) stop() error {
	t.unpoll()
	err := t.dev.Close()
	t.wg.Wait()
	return err
}

// fail records, once, that the device died. That it was closed, which is our own
// doing, is no failure.
func (t *tunnel) fail(err error) {
	if errors.Is(err, net.ErrClosed) {
		return
	}
	f := &Failure{VNI: t.vni, Device: t.dev.Name(), Err: err}
	if !t.failure.CompareAndSwap(nil, f) {
		return
	}
	t.engine.log.Warn("VXLAN tunnel lost its device", "vni", t.vni, "device", f.Device, "error", err)
	select {
	case t.engine.failures <- *f:
	default:
	}
}
