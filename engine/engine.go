// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kohaku/encap"
	"kohaku/tun"
)

// Config says how an Engine meets the underlay.
type Config struct {
	// Listen holds the underlay addresses on which datagrams are accepted.
	// Empty means all, IPv4 and, where the kernel has it, IPv6.
	Listen []netip.Addr
	// Port is the UDP port, ours and the peers'; 0 means 4789.
	Port uint16
	// Workers is the number of threads that carry frames; 0 means as many as
	// help. A device with as many queues spreads its flows over them.
	Workers int
	// UDPGSO and UDPGRO allow the kernel's segmentation (Linux 4.18) and
	// receive offload (5.12) for UDP. Where the kernel has neither, or
	// refuses, the engine does without.
	UDPGSO, UDPGRO bool
	// Linger is how long a worker looks on for more to do before it sleeps, while
	// traffic is such that it pays (see lingerer): it trades processor time for
	// round trips. 0 means 100 µs, less means not at all.
	Linger time.Duration
	// Nice is the nice value of the workers' threads, -20 to 19; 0 leaves it as it
	// is. Where it is refused the engine goes on without, and says so in Log.
	Nice int
	// ZeroChecksum6 accepts datagrams over IPv6 without a UDP checksum (RFC
	// 6935), as some VTEPs send them. Over IPv4 they are always accepted.
	ZeroChecksum6 bool
	// Circular, when not nil, reports whether the route to remote leads into
	// device, one of the tunnels', or into the bridge that it is a port of. Add
	// and Update then refuse such a peer, and frames for it are dropped as long
	// as it is so (DropLoop). It is called by several goroutines, a few times a
	// second for each tunnel in use, and may block.
	Circular func(remote netip.Addr, device string) (bool, error)
	// Log gets what an administrator should see; nil discards it.
	Log *slog.Logger
}

// A Tunnel says what Add is to set up.
type Tunnel struct {
	VNI encap.VNI
	Peer
	// Device gives and takes the frames. The engine owns it once Add has
	// succeeded, and closes it.
	Device tun.Device
}

// A Peer is the other end of a tunnel.
type Peer struct {
	// Remote is the peer's underlay address. Only datagrams from it are
	// accepted. A link-local IPv6 address needs its zone.
	Remote netip.Addr
	// Local is our own underlay address to send from; the zero value leaves
	// the choice to the routing table.
	Local netip.Addr
	// Sources, when not nil, are the inner network-layer addresses that the
	// peer may send from. IPv6 link-local and unspecified addresses are always
	// allowed, since address resolution needs them.
	Sources []netip.Prefix
	Outer
}

// Outer says how a tunnel's outer IP headers look. The zero value is what the
// kernel's driver does by default.
type Outer struct {
	// TTL is the hop limit; 0 means the system's default, usually 64.
	TTL uint8
	// TOS is the TOS or traffic class. Its two low bits are not used: the ECN
	// field is always the inner packet's (RFC 6040).
	TOS uint8
	// InheritTOS copies the DSCP of inner IP packets instead; TOS is then for
	// frames that are not IP.
	InheritTOS bool
	// DF sets "don't fragment" on IPv4, so that no router cuts a datagram in
	// two: what is larger than the path takes is dropped, and its sender told.
	DF bool
}

// Errors of Add, Update and Remove.
var (
	ErrNoTunnel     = errors.New("no tunnel with this VNI")
	ErrTunnelExists = errors.New("a tunnel with this VNI exists")
	ErrClosed       = errors.New("the engine is closed")
	// ErrCircular: the route to the peer leads into the tunnel to it.
	ErrCircular = errors.New("the route to the peer leads into the tunnel itself")
)

// A Failure says that a tunnel's device died under it. The tunnel stays in the
// table, carrying nothing, until it is removed or added anew.
type Failure struct {
	VNI    encap.VNI
	Device string
	Err    error
}

// An Engine carries frames for any number of tunnels. All methods may be
// called concurrently.
type Engine struct {
	port uint16
	log  *slog.Logger

	// Constant after New.
	zeroChecksum6 bool
	linger        time.Duration
	nice          int
	groOn         bool
	workers       []*worker
	sockets       []*rxSocket // all of the workers'

	sources  sourcePools
	path     pathProbe
	routes   *routeWatch     // nil: nobody knows routes
	contexts chan *txContext // tokens; nil ones are made when first borrowed
	failures chan Failure
	drops    dropCounters // those that belong to no tunnel
	stages   stages       // of the contexts in the pool
	gsoOff   atomic.Bool
	ordinary atomic.Bool // workers were refused their priority

	tunnels atomic.Pointer[map[encap.VNI]*tunnel]

	mu     sync.Mutex // serialises changes of tunnels
	closed bool
}

// New opens the sockets and starts to receive. When the port is taken the
// error is a *PortInUseError.
func New(c Config) (*Engine, error) {
	if c.Port == 0 {
		c.Port = encap.DefaultPort
	}
	if c.Workers == 0 {
		c.Workers = tun.DefaultQueues()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{
		port:          c.Port,
		log:           c.Log,
		contexts:      make(chan *txContext, max(2*runtime.GOMAXPROCS(0), 4)),
		failures:      make(chan Failure, 1024),
		zeroChecksum6: c.ZeroChecksum6,
		linger:        c.Linger,
		nice:          c.Nice,
	}
	for range cap(e.contexts) {
		e.contexts <- nil
	}
	e.gsoOff.Store(!c.UDPGSO || !kernelHasUDPGSO())
	e.groOn = c.UDPGRO && kernelHasUDPGRO()
	e.tunnels.Store(&map[encap.VNI]*tunnel{})
	e.path.init()
	e.routes = newRouteWatch(c.Circular)
	e.path.routes = e.routes

	if err := e.open(c); err != nil {
		for _, w := range e.workers {
			w.closeFDs()
		}
		e.closeSockets()
		e.routes.close()
		return nil, err
	}
	for _, w := range e.workers {
		w.start()
	}
	return e, nil
}

// open makes the workers and their sockets, and starts nothing.
func (e *Engine) open(c Config) error {
	for i := range c.Workers {
		w, err := newWorker(e, i)
		if err != nil {
			return err
		}
		e.workers = append(e.workers, w)
	}
	return e.openSockets(c)
}

// Port returns the UDP port in use.
func (e *Engine) Port() uint16 { return e.port }

// Failures returns the channel on which dead devices are reported. When nobody
// reads it, reports beyond its capacity are lost; Tunnels shows them too.
func (e *Engine) Failures() <-chan Failure { return e.failures }

// Add starts a tunnel. On success the engine owns t.Device; on error the
// caller still does.
func (e *Engine) Add(t Tunnel) error {
	if !t.VNI.Valid() {
		return fmt.Errorf("add tunnel: VNI %d: must be 0 to %d", t.VNI, encap.MaxVNI)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return ErrClosed
	}
	p, err := e.newPeer(t.Peer, t.Device.Name())
	if err != nil {
		return fmt.Errorf("add tunnel with VNI %d: %w", t.VNI, err)
	}
	old := *e.tunnels.Load()
	if _, ok := old[t.VNI]; ok {
		return fmt.Errorf("add tunnel with VNI %d: %w", t.VNI, ErrTunnelExists)
	}
	n := newTunnel(e, t.VNI, t.Device)
	n.peer.Store(p)
	if err := n.start(); err != nil {
		return fmt.Errorf("add tunnel with VNI %d: %w", t.VNI, err)
	}
	m := maps.Clone(old)
	m[t.VNI] = n
	e.tunnels.Store(&m)
	return nil
}

// Update gives a tunnel another peer, while traffic flows.
func (e *Engine) Update(v encap.VNI, p Peer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := (*e.tunnels.Load())[v]
	if t == nil {
		return fmt.Errorf("update tunnel with VNI %d: %w", v, ErrNoTunnel)
	}
	np, err := e.newPeer(p, t.dev.Name())
	if err != nil {
		return fmt.Errorf("update tunnel with VNI %d: %w", v, err)
	}
	t.peer.Store(np)
	return nil
}

// Remove ends a tunnel, closes its device and waits until no transmitter uses
// it any more.
func (e *Engine) Remove(v encap.VNI) error {
	e.mu.Lock()
	old := *e.tunnels.Load()
	t := old[v]
	if t != nil {
		m := maps.Clone(old)
		delete(m, v)
		e.tunnels.Store(&m)
	}
	e.mu.Unlock()
	if t == nil {
		return fmt.Errorf("remove tunnel with VNI %d: %w", v, ErrNoTunnel)
	}
	return t.stop()
}

// Close ends all tunnels, closes their devices and the sockets and returns
// when every goroutine has ended. Closing twice is harmless.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	tunnels := *e.tunnels.Swap(&map[encap.VNI]*tunnel{})
	e.mu.Unlock()

	var err error
	for _, t := range tunnels {
		err = errors.Join(err, t.stop())
	}
	for _, w := range e.workers {
		w.stop()
	}
	e.closeSockets()
	e.routes.close()
	return err
}

func (e *Engine) lookup(v encap.VNI) *tunnel { return (*e.tunnels.Load())[v] }

// sorted returns the tunnels by VNI.
func (e *Engine) sorted() []*tunnel {
	return slices.SortedFunc(maps.Values(*e.tunnels.Load()), func(a, b *tunnel) int {
		return int(a.vni) - int(b.vni)
	})
}
