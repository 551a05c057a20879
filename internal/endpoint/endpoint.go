// SPDX-License-Identifier: Apache-2.0

// Package endpoint is an end of a tunnel that lives inside a program: an engine
// with one tunnel, whose device is a TCP/IP stack in memory (tun/netstack). It
// needs neither an interface in the kernel nor privileges, as long as the UDP port
// is one that the user may bind.
package endpoint

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/link"
	"kohaku/tun/netstack"
)

// Config says which end of a tunnel Open makes.
type Config struct {
	VNI    encap.VNI
	Remote netip.Addr // the peer's underlay address; required
	// Local is our own underlay address, to listen on and to send from. The zero
	// value listens on all and leaves the choice to the routing table.
	Local netip.Addr
	Port  uint16 // UDP port at both ends; 0: 4789
	// Addrs are our own addresses on the overlay, at least one. Their prefixes are
	// on the link.
	Addrs []netip.Prefix
	// Gateways are the next hops for all else, at most one of a family.
	Gateways []netip.Addr
	// MTU is the overlay's, in bytes; 0 means what the route to Remote leaves.
	MTU int
	// UDPGSO and UDPGRO are those of engine.Config.
	UDPGSO, UDPGRO bool
	// NoOffloads makes the stack send and take single frames.
	NoOffloads bool
	Log        *slog.Logger // nil: discarded
}

// An Endpoint is a machine on the overlay. Its methods may be called concurrently.
type Endpoint struct {
	engine *engine.Engine
	device *netstack.Device
}

// Open makes the stack and the tunnel. When something else has the port, the error
// matches *engine.PortInUseError.
func Open(c Config) (*Endpoint, error) {
	if c.MTU == 0 {
		mtu, err := pathMTU(c.Remote)
		if err != nil {
			return nil, err
		}
		c.MTU = int(mtu)
	}
	ec := engine.Config{Port: c.Port, UDPGSO: c.UDPGSO, UDPGRO: c.UDPGRO, Log: c.Log}
	if c.Local.IsValid() {
		ec.Listen = []netip.Addr{c.Local}
	}
	d, err := netstack.New(netstack.Options{MTU: c.MTU, Addrs: c.Addrs, Gateways: c.Gateways, NoOffloads: c.NoOffloads})
	if err != nil {
		return nil, err
	}
	e, err := engine.New(ec)
	if err != nil {
		d.Close()
		return nil, err
	}
	peer := engine.Peer{Remote: c.Remote, Local: c.Local}
	if err := e.Add(engine.Tunnel{VNI: c.VNI, Peer: peer, Device: d}); err != nil {
		d.Close()
		e.Close()
		return nil, err
	}
	return &Endpoint{engine: e, device: d}, nil
}

func pathMTU(remote netip.Addr) (encap.InnerMTU, error) {
	path, err := (link.Kernel{}).PathTo(remote)
	if err != nil {
		return 0, fmt.Errorf("find out the MTU toward %s: %w (give it, or set the underlay up first)", remote, err)
	}
	in, err := encap.UnderlayMTU(path.MTU).Inner(remote.Unmap().Is6())
	if err != nil {
		return 0, fmt.Errorf("use %s as underlay: %w", path.Device, err)
	}
	return in, nil
}

// DialContext connects to "address:port" on the overlay; network is tcp, tcp4,
// tcp6, udp, udp4 or udp6. Names are not looked up. It can stand in for
// net.Dialer's method.
func (e *Endpoint) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return e.device.DialContext(ctx, network, addr)
}

// Listen listens for TCP, as netstack.Device's does.
func (e *Endpoint) Listen(network, addr string) (net.Listener, error) {
	return e.device.Listen(network, addr)
}

// ListenPacket opens a UDP socket, as netstack.Device's does.
func (e *Endpoint) ListenPacket(network, addr string) (net.PacketConn, error) {
	return e.device.ListenPacket(network, addr)
}

// Stats is a snapshot of the tunnel.
func (e *Endpoint) Stats() engine.TunnelStats {
	if t := e.engine.Tunnels(); len(t) > 0 {
		return t[0]
	}
	return engine.TunnelStats{}
}

// Engine is the engine below, for its counters. Close is the Endpoint's.
func (e *Endpoint) Engine() *engine.Engine { return e.engine }

// Close ends all connections, the tunnel and the engine. Peers of TCP connections
// that are still open are not told.
func (e *Endpoint) Close() error { return e.engine.Close() }
