// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"kohaku/encap"
	"kohaku/tun"
)

// Options says what New makes.
type Options struct {
	// Name is what Device.Name returns; empty means "netstack".
	Name string
	// MTU is the largest IP packet, 576 to 65535 (1280 with IPv6 addresses); 0
	// means 1450, which fits an IPv4 underlay of plain Ethernet.
	MTU int
	// HardwareAddr is the device's MAC address; the zero value means a random
	// one.
	HardwareAddr [6]byte
	// Addrs are the device's addresses, at least one. Each one's prefix is on
	// the link. They are used at once, without duplicate address detection.
	// With an IPv6 address there is a link-local one too.
	Addrs []netip.Prefix
	// Gateways are the next hops for all else, at most one of a family. Without
	// one only the prefixes on the link can be reached.
	Gateways []netip.Addr
	// NoOffloads makes TCP leave in single frames and come unmerged.
	NoOffloads bool
}

const (
	nicID      = 1
	defaultMTU = 1500 - encap.Overhead4

	// queueLen is how many frames wait for the engine; what TCP sends beyond
	// is lost, and sent again by TCP.
	queueLen = 1024

	// maxSuper is the longest super-frame. The headers of its datagrams must
	// fit into one UDP_SEGMENT call besides (65507 bytes): a longer one would
	// take two.
	maxSuper = 62000
)

// A Device is a TCP/IP stack behind a tun.Device. All methods may be called
// concurrently.
type Device struct {
	name     string
	mac      [6]byte
	offloads bool
	stack    *stack.Stack
	link     *channel.Endpoint
	ether    *ethernet.Endpoint
	queues   []tun.Queue
	v4, v6   bool // has addresses of the family

	dropped atomic.Uint64
	ready   chan struct{} // something may be in link
	done    chan struct{} // closed by Close

	mu     sync.Mutex
	open   map[closer]struct{} // what was handed out
	closed bool
	ended  chan struct{} // closed when Close has done its work
}

// closer is a connection, listener or packet connection of ours.
type closer interface{ shut() }

// notify takes gVisor's signal that a packet waits in the link's queue.
type notify chan<- struct{}

// WriteNotify implements channel.Notification.
func (n notify) WriteNotify() {
	select {
	case n <- struct{}{}:
	default:
	}
}

// superLink lets gVisor make longer super-frames than channel would.
type superLink struct{ *channel.Endpoint }

func (superLink) GSOMaxSize() uint32 { return maxSuper }

// New makes a stack with one Ethernet interface.
func New(o Options) (*Device, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("make a network stack: %w", err)
	}
	d := &Device{name: o.Name, mac: o.HardwareAddr, offloads: !o.NoOffloads,
		ready: make(chan struct{}, 1), done: make(chan struct{}), ended: make(chan struct{}), open: map[closer]struct{}{}}
	d.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocol, arp.NewProtocol,
			// Neither duplicate address detection nor router advertisements:
			// addresses and routes are the caller's.
			ipv6.NewProtocolWithOptions(ipv6.Options{AutoGenLinkLocal: hasIPv6(o.Addrs)}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
	})
	d.link = channel.New(queueLen, uint32(o.MTU), tcpip.LinkAddress(o.HardwareAddr[:]))
	if d.offloads {
		d.link.SupportedGSOKind = stack.HostGSOSupported
	}
	d.link.AddNotify(notify(d.ready))
	d.ether = ethernet.New(superLink{d.link})
	d.queues = []tun.Queue{&queue{dev: d}}
	if err := d.configure(&o); err != nil {
		d.stack.Destroy()
		return nil, fmt.Errorf("make a network stack: %w", err)
	}
	return d, nil
}

func (o *Options) complete() error {
	if o.Name == "" {
		o.Name = "netstack"
	}
	if o.MTU == 0 {
		o.MTU = defaultMTU
	}
	least := int(encap.MinInnerMTU)
	if hasIPv6(o.Addrs) {
		least = header.IPv6MinimumMTU
	}
	switch {
	case o.MTU < least || o.MTU > 65535:
		return fmt.Errorf("MTU %d: must be %d to 65535", o.MTU, least)
	case len(o.Addrs) == 0:
		return errors.New("no address is given")
	case o.HardwareAddr == [6]byte{}:
		_, _ = rand.Read(o.HardwareAddr[:]) // never fails
		o.HardwareAddr[0] = o.HardwareAddr[0]&^1 | 2
	case o.HardwareAddr[0]&1 != 0:
		return fmt.Errorf("MAC address %x: is a group's, not a station's", o.HardwareAddr)
	}
	for _, p := range o.Addrs {
		if !p.IsValid() || p.Addr().IsMulticast() || p.Addr().IsUnspecified() {
			return fmt.Errorf("address %s: must be a single machine's, with its prefix", p)
		}
	}
	var have [2]bool
	for _, g := range o.Gateways {
		if !g.IsValid() || g.IsMulticast() || g.IsUnspecified() {
			return fmt.Errorf("gateway %s: must be a single machine's address", g)
		}
		f := &have[b2i(g.Is6())]
		if *f {
			return fmt.Errorf("gateway %s: there is another one of its family", g)
		}
		*f = true
	}
	return nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func hasIPv6(ps []netip.Prefix) bool {
	for _, p := range ps {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

func (d *Device) configure(o *Options) error {
	if err := d.stack.CreateNIC(nicID, d.ether); err != nil {
		return fmt.Errorf("create the interface: %s", err)
	}
	var routes []tcpip.Route
	for _, p := range o.Addrs {
		pa := tcpip.ProtocolAddress{
			Protocol:          protocol(p.Addr()),
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(p.Addr()), PrefixLen: p.Bits()},
		}
		if err := d.stack.AddProtocolAddress(nicID, pa, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("add address %s: %s", p, err)
		}
		routes = append(routes, tcpip.Route{Destination: pa.AddressWithPrefix.Subnet(), NIC: nicID})
		if p.Addr().Is4() {
			d.v4 = true
		} else {
			d.v6 = true
		}
	}
	if d.v6 {
		routes = append(routes, tcpip.Route{Destination: header.IPv6LinkLocalPrefix.Subnet(), NIC: nicID})
	}
	for _, g := range o.Gateways {
		all := header.IPv4EmptySubnet
		if g.Is6() {
			all = header.IPv6EmptySubnet
		}
		routes = append(routes, tcpip.Route{Destination: all, Gateway: address(g), NIC: nicID})
	}
	d.stack.SetRouteTable(routes)

	// What gVisor leaves off or small by default; and RACK, its loss detection,
	// off: a few lost segments made it fall back to time-outs again and again,
	// and 16 MiB took up to 40 seconds where they take less than one without.
	sack, moderate, rack := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true), tcpip.TCPRecovery(0)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultSendBufferSize, Max: 8 << 20}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultReceiveBufferSize, Max: 8 << 20}
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &rack, &send, &receive} {
		if err := d.stack.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("set %T: %s", opt, err)
		}
	}
	return nil
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// Name implements tun.Device.
func (d *Device) Name() string { return d.name }

// Queues implements tun.Device. There is one.
func (d *Device) Queues() []tun.Queue { return d.queues }

// HardwareAddr implements tun.Device.
func (d *Device) HardwareAddr() [6]byte { return d.mac }

// Offloads implements tun.Device: TCP, unless Options.NoOffloads.
func (d *Device) Offloads() tun.Offloads { return tun.Offloads{TSO: d.offloads} }

// Dropped returns how many frames from the tunnel were not the stack's to see:
// too short, for another station, or wrongly described.
func (d *Device) Dropped() uint64 { return d.dropped.Load() }

// Close implements tun.Device. Connections and listeners are closed with it;
// their peers are told only as far as somebody still reads the Queue.
func (d *Device) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		<-d.ended
		return nil
	}
	d.closed = true
	open := d.open
	d.open = nil
	d.mu.Unlock()
	close(d.done)
	for c := range open {
		c.shut()
	}
	d.stack.Destroy()
	d.link.Close()
	close(d.ended)
	return nil
}

// track remembers what is to be closed with the Device; it reports false when
// the Device is closed already.
func (d *Device) track(c closer) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.open[c] = struct{}{}
	return true
}

func (d *Device) forget(c closer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, c)
}

func (d *Device) errClosed() error { return fmt.Errorf("%s: %w", d.name, net.ErrClosed) }

func (d *Device) isClosed() bool {
	select {
	case <-d.done:
		return true
	default:
		return false
	}
}
