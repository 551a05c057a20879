// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	wgtun "golang.zx2c4.com/wireguard/tun"

	"kohaku/tun"
)

// A Device is an L3 TUN interface with Ethernet on top. All methods may be
// called concurrently.
type Device struct {
	dev    wgtun.Device
	name   string
	mac    [6]byte
	router bool
	routes routes
	src    source
	queues []tun.Queue
	opts   Options

	own    atomic.Pointer[own]
	count  counters
	single atomic.Bool // the kernel refuses merged packets
	closed atomic.Bool

	closeOnce sync.Once
	closeErr  error
	wg        sync.WaitGroup // the reader of events, ticks under way

	mu    sync.Mutex
	table table
	out   outbox
	lost  [][]byte // ICMP errors that a tick made and is still to write
	timer *time.Timer
	armed bool // the timer is running
}

// Open creates the TUN interface name and makes an Ethernet device of it. The
// interface is left down and without addresses: those are the business of
// whoever manages links, as with tun.OpenTAP. It vanishes with Close unless
// Options.Persist is set. On macOS the name must be "utun" or utun and a number.
//
// On Linux it needs CAP_NET_ADMIN in the network namespace and access to
// /dev/net/tun, and the error says which is missing.
func Open(name string, o Options) (*Device, error) {
	if err := o.complete(name); err != nil {
		return nil, fmt.Errorf("open TUN device %s: %w", name, err)
	}
	dev, err := create(name, &o)
	if err != nil {
		return nil, fmt.Errorf("open TUN device %s: %w", name, err)
	}
	d, err := New(dev, o)
	if err != nil {
		_ = dev.Close() // the first error is the one to tell
		return nil, fmt.Errorf("open TUN device %s: %w", name, err)
	}
	return d, nil
}

// New makes an Ethernet device of a TUN that is open already. On success the
// Device owns it.
func New(dev wgtun.Device, o Options) (*Device, error) {
	name, err := dev.Name()
	if err != nil {
		return nil, fmt.Errorf("ask for the interface's name: %w", err)
	}
	if err := o.complete(name); err != nil {
		return nil, err
	}
	d := &Device{dev: dev, name: name, mac: o.HardwareAddr, router: o.Router, routes: newRoutes(&o), opts: o}
	d.SetAddrs(o.Addrs)
	d.table = table{entries: map[netip.Addr]*neighbour{}, ask: d.request, release: d.release, fail: d.fail}
	d.timer = time.AfterFunc(time.Hour, d.tick)
	d.timer.Stop()
	d.src = newSource(reader{dev: dev, name: name, count: &d.count, closed: &d.closed}, dev)
	d.queues = []tun.Queue{&queue{dev: d}}
	d.wg.Go(func() {
		// Nobody needs the events, but unread ones would keep the TUN's own
		// goroutines from ending. Close closes the channel.
		for range dev.Events() {
		}
	})
	return d, nil
}

// Name implements tun.Device.
func (d *Device) Name() string { return d.name }

// Queues implements tun.Device. There is one.
func (d *Device) Queues() []tun.Queue { return d.queues }

// HardwareAddr implements tun.Device.
func (d *Device) HardwareAddr() [6]byte { return d.mac }

// Offloads implements tun.Device: none.
func (d *Device) Offloads() tun.Offloads { return tun.Offloads{} }

// SetAddrs replaces Options.Addrs.
func (d *Device) SetAddrs(addrs []netip.Addr) { d.own.Store(newOwn(addrs, d.mac)) }

// Stats returns a snapshot.
func (d *Device) Stats() Stats {
	s := Stats{Requests: d.count.requests.Load(), Replies: d.count.replies.Load(), Drops: map[string]uint64{}}
	d.mu.Lock()
	s.Neighbours, s.Asking, s.Waiting = len(d.table.entries), len(d.table.asking), d.table.packets
	d.mu.Unlock()
	for r := range numDrops {
		if n := d.count.drops[r].Load(); n > 0 {
			s.Drops[r.String()] = n
		}
	}
	return s
}

// Losses counts the frames and packets that somebody may miss, by reason: the part
// of Stats.Drops that is not other stations' traffic or address resolution that was
// none of our business. The map is the caller's.
func (d *Device) Losses() map[string]uint64 {
	m := map[string]uint64{}
	for r := range numDrops {
		if n := d.count.drops[r].Load(); n > 0 && r.lost() {
			m[r.String()] = n
		}
	}
	return m
}

// Close implements tun.Device. It returns when the TUN is closed and no
// goroutine of the Device is left.
func (d *Device) Close() error {
	d.closeOnce.Do(func() {
		d.mu.Lock()
		d.closed.Store(true)
		d.timer.Stop()
		d.mu.Unlock()
		d.closeErr = d.dev.Close()
		d.src.kick()
		d.src.close()
		d.wg.Wait()
	})
	return d.closeErr
}

// tick is called by the timer.
func (d *Device) tick() {
	d.mu.Lock()
	if d.closed.Load() {
		d.mu.Unlock()
		return
	}
	d.wg.Add(1) // not after Close has begun to wait: it takes the mutex first
	defer d.wg.Done()
	empty := d.out.empty()
	d.armed = false
	now := time.Now()
	if next, ok := d.table.tick(now); ok {
		d.armed = true
		d.timer.Reset(max(next.Sub(now), 0))
	}
	kick := empty && !d.out.empty()
	lost := d.lost
	d.lost = nil
	d.mu.Unlock()
	if kick {
		d.src.kick()
	}
	d.tell(lost)
}

// arm starts the timer when a request is out. Called with the mutex held.
func (d *Device) arm() {
	if !d.armed && len(d.table.asking) > 0 && !d.closed.Load() {
		d.armed = true
		d.timer.Reset(retransTimer)
	}
}

// tell writes ICMP errors to the kernel.
func (d *Device) tell(packets [][]byte) {
	if len(packets) == 0 {
		return
	}
	b := make([]byte, packetOffset, packetOffset+maxICMP6)
	for _, p := range packets {
		buf := append(b[:packetOffset], p...)
		if _, err := d.dev.Write([][]byte{buf}, packetOffset); err != nil {
			d.count.drop(DropWriteFailed, 1)
		}
	}
}

// request is table.ask.
func (d *Device) request(n *neighbour) {
	from := d.own.Load().from(n.addr, n.from)
	dst := n.mac
	b, ok := d.out.control()
	if !ok {
		d.count.drop(DropReplyFull, 1)
		return
	}
	if n.addr.Is4() {
		if n.group {
			dst = broadcastMAC
		}
		b = appendARP(b, arpRequest, dst, d.mac, from, [6]byte{}, n.addr)
	} else {
		to := n.addr
		if n.group {
			to = solicitedNode(n.addr)
			dst = groupMAC(to)
		}
		b = appendSolicitation(b, dst, d.mac, from, to, n.addr)
	}
	d.out.push(b, true)
	d.count.requests.Add(1)
}

// release is table.release.
func (d *Device) release(n *neighbour) {
	for _, f := range n.waiting {
		copy(f, n.mac[:])
		d.out.push(f, false)
	}
}

// fail is table.fail.
func (d *Device) fail(why Drop, frames [][]byte) {
	d.count.drop(why, len(frames))
	if why != DropUnresolved {
		return
	}
	for _, f := range frames {
		if p := appendUnreachable(nil, f[ethLen:]); p != nil {
			d.lost = append(d.lost, p)
		}
	}
}

// An outbox holds whole frames that are to be read before the TUN's own.
type outbox struct {
	frames   []outFrame
	head     int
	controls int
	spare    [][]byte // buffers of control frames, for reuse
}

type outFrame struct {
	b       []byte
	control bool
}

const (
	maxControls = 256 // requests and answers of ours that wait to be read
	controlLen  = 96  // longer than any of them
)

func (o *outbox) empty() bool { return o.head == len(o.frames) }

// control returns an empty buffer for a control frame, or false when enough of
// them wait.
func (o *outbox) control() ([]byte, bool) {
	if o.controls == maxControls {
		return nil, false
	}
	if n := len(o.spare); n > 0 {
		b := o.spare[n-1]
		o.spare = o.spare[:n-1]
		return b[:0], true
	}
	return make([]byte, 0, controlLen), true
}

func (o *outbox) push(b []byte, control bool) {
	if o.empty() {
		o.frames, o.head = o.frames[:0], 0
	}
	if control {
		o.controls++
	}
	o.frames = append(o.frames, outFrame{b, control})
}

// front is the first frame; pop removes it, and its bytes may be reused.
func (o *outbox) front() []byte { return o.frames[o.head].b }

func (o *outbox) pop() {
	f := &o.frames[o.head]
	if f.control {
		o.controls--
		if len(o.spare) < 8 {
			o.spare = append(o.spare, f.b)
		}
	}
	*f = outFrame{}
	o.head++
}
