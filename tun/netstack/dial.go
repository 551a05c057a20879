// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

// DialContext connects to "address:port". network is tcp, tcp4, tcp6, udp, udp4
// or udp6. Names are not looked up: the address is a number. Errors match
// syscall.ECONNREFUSED and the like; ctx ends the attempt, not the connection.
// It can stand in for net.Dialer's method, in an http.Transport for instance.
//
// When nobody listens where a UDP connection goes to, the call after the answer
// tells; a Read that waits already is not woken.
func (d *Device) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: textAddr{network, addr}, Err: translate("connect", err)}
	}
	return c, nil
}

func (d *Device) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ap, err := parse(network, addr)
	if err != nil {
		return nil, err
	}
	if !ap.Addr().IsValid() || ap.Addr().IsUnspecified() || ap.Port() == 0 {
		return nil, fmt.Errorf("%q names no machine and port", addr)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if d.isClosed() {
		return nil, d.errClosed()
	}
	to, proto := full(ap), protocol(ap.Addr())
	if strings.HasPrefix(network, "udp") {
		u, err := gonet.DialUDP(d.stack, nil, &to, proto)
		if err != nil {
			return nil, err
		}
		return d.packetConn(u)
	}
	t, err := gonet.DialContextTCP(ctx, d.stack, to, proto)
	if err != nil {
		return nil, err
	}
	return d.conn(t)
}

// Listen listens for TCP. network is tcp, tcp4 or tcp6; addr is
// "address:port", where an empty address means all of the family, or of both
// with tcp, and port 0 chooses one.
func (d *Device) Listen(network, addr string) (net.Listener, error) {
	l, err := d.listen(network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: textAddr{network, addr}, Err: translate("listen", err)}
	}
	return l, nil
}

func (d *Device) listen(network, addr string) (net.Listener, error) {
	if !strings.HasPrefix(network, "tcp") {
		return nil, net.UnknownNetworkError(network)
	}
	at, proto, err := d.local(network, addr)
	if err != nil {
		return nil, err
	}
	t, err := gonet.ListenTCP(d.stack, at, proto)
	if err != nil {
		return nil, err
	}
	l := &listener{TCPListener: t, dev: d}
	if !d.track(l) {
		l.shut()
		return nil, d.errClosed()
	}
	return l, nil
}

// ListenPacket opens a UDP socket. network is udp, udp4 or udp6; addr is as for
// Listen.
func (d *Device) ListenPacket(network, addr string) (net.PacketConn, error) {
	c, err := d.listenPacket(network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: textAddr{network, addr}, Err: translate("bind", err)}
	}
	return c, nil
}

func (d *Device) listenPacket(network, addr string) (*packetConn, error) {
	if !strings.HasPrefix(network, "udp") {
		return nil, net.UnknownNetworkError(network)
	}
	at, proto, err := d.local(network, addr)
	if err != nil {
		return nil, err
	}
	u, err := gonet.DialUDP(d.stack, &at, nil, proto)
	if err != nil {
		return nil, err
	}
	return d.packetConn(u)
}

// local is the address to listen on, and its protocol. The IPv6 wildcard takes
// IPv4 too, as in the kernel.
func (d *Device) local(network, addr string) (at tcpip.FullAddress, proto tcpip.NetworkProtocolNumber, err error) {
	ap, err := parse(network, addr)
	switch {
	case err != nil:
		return at, 0, err
	case d.isClosed():
		return at, 0, d.errClosed()
	case ap.Addr().IsValid() && !ap.Addr().IsUnspecified():
		return full(ap), protocol(ap.Addr()), nil
	}
	proto = ipv6.ProtocolNumber
	if strings.HasSuffix(network, "4") || ap.Addr().Is4() || !d.v6 && !strings.HasSuffix(network, "6") {
		proto = ipv4.ProtocolNumber
	}
	return tcpip.FullAddress{Port: ap.Port()}, proto, nil
}

// parse reads "address:port" and checks it against the network's family. The
// address is invalid if it is left out.
func parse(network, addr string) (ap netip.AddrPort, err error) {
	switch network {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	default:
		return ap, net.UnknownNetworkError(network)
	}
	if strings.HasPrefix(addr, ":") {
		full, err := netip.ParseAddrPort("0.0.0.0" + addr)
		if err != nil {
			return ap, fmt.Errorf("%q: %w", addr, err)
		}
		return netip.AddrPortFrom(netip.Addr{}, full.Port()), nil
	}
	ap, err = netip.ParseAddrPort(addr)
	if err != nil {
		return ap, fmt.Errorf("%w (names are not looked up here: give the address as a number, with a port)", err)
	}
	// There is one interface, so a zone tells nothing.
	a := ap.Addr().Unmap().WithZone("")
	if strings.HasSuffix(network, "4") && !a.Is4() || strings.HasSuffix(network, "6") && !a.Is6() {
		return ap, &net.AddrError{Err: "address is not of the family of " + network, Addr: addr}
	}
	return netip.AddrPortFrom(a, ap.Port()), nil
}

func full(ap netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: address(ap.Addr()), Port: ap.Port()}
}

// textAddr is an address as it was given, for errors.
type textAddr struct{ network, addr string }

func (a textAddr) Network() string { return a.network }
func (a textAddr) String() string  { return a.addr }
