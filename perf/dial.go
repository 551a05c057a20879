// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/perf/iperf"
)

// peer is where a client's streams go: the address that the control connection
// reached, so that all take the same path.
type peer struct {
	addr  netip.AddrPort
	zone  string
	local netip.Addr // zero: routing decides
	dial  Dial       // of another stack; nil: the machine's
}

// dialControl connects to the server.
func (c *ClientConfig) dialControl(ctx context.Context) (net.Conn, peer, error) {
	host, port, err := c.target()
	if err != nil {
		return nil, peer{}, err
	}
	d := net.Dialer{Timeout: c.ConnectTimeout}
	if c.Local.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: c.Local.AsSlice(), Zone: c.Local.Zone()}
	}
	dial := d.DialContext
	if c.Dial != nil {
		dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
			defer cancel()
			return c.Dial(ctx, network, address)
		}
	}
	conn, err := dial(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		if ctx.Err() != nil {
			return nil, peer{}, context.Cause(ctx)
		}
		return nil, peer{}, fmt.Errorf("connecting to the perf server: %w; is \"kohaku perf server\" or \"iperf3 -s\" running there, and does a firewall let TCP and UDP port %d pass?", err, port)
	}
	zone := ""
	if remote, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		zone = remote.Zone
	}
	return conn, peer{
		addr:  connAddr(conn.RemoteAddr()),
		zone:  zone,
		dial:  c.Dial,
		local: c.Local.Unmap().WithZone(""),
	}, nil
}

// maxSegment gives the connection's segment size: what a datagram may carry
// without being fragmented is never less. 0: unknown.
func maxSegment(c net.Conn) int {
	mss := 0
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if v, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG); err == nil {
				mss = v
			}
		})
	}
	return mss
}

// streamOptions sets what must be set before a TCP stream connects.
func streamOptions(p *iperf.Params) func(string, string, syscall.RawConn) error {
	return func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = tcpOptions(int(fd), p) })
		return errors.Join(err, failed)
	}
}

// tcpOptions applies the parameters to a TCP stream.
func tcpOptions(fd int, p *iperf.Params) error {
	if w := int(p.Window); w > 0 {
		setBuffers(fd, w)
	}
	if p.MSS > 0 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, int(p.MSS)); err != nil {
			return fmt.Errorf("setting a segment size of %d: %w", p.MSS, err)
		}
	}
	if p.NoDelay || p.Mode() != "" {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return fmt.Errorf("setting TCP_NODELAY: %w", err)
		}
	}
	if p.Congestion != "" {
		// An algorithm that this machine lacks is no reason to refuse the test:
		// the one in use stands in the results.
		_ = unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, p.Congestion)
	}
	if p.TOS > 0 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, int(p.TOS))
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(p.TOS))
	}
	return nil
}

// dialTCP opens one TCP stream.
func (p peer) dialTCP(ctx context.Context, params *iperf.Params, cookie iperf.Cookie, timeout time.Duration) (*sock, error) {
	if p.dial != nil {
		s, err := p.dialVia(ctx, "tcp", &cookie, timeout)
		if err != nil {
			return nil, fmt.Errorf("opening a stream: %w", err)
		}
		return s, nil
	}
	d := net.Dialer{Timeout: timeout, Control: streamOptions(params)}
	if p.local.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: p.local.AsSlice(), Zone: p.zone}
	}
	to := netip.AddrPortFrom(p.addr.Addr().WithZone(p.zone), p.addr.Port())
	if to.Addr().Is4() {
		to = p.addr
	}
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := conn.Write(cookie[:]); err != nil {
		conn.Close()
		return nil, fmt.Errorf("sending the cookie on a stream: %w", err)
	}
	s, err := takeSock(conn.(*net.TCPConn))
	if err == nil {
		s.zone = p.zone
	}
	return s, err
}

// dialUDP opens one UDP stream: a datagram tells the server the stream's
// address, its answer tells that the server is ready. The first may get lost
// where an address has to be resolved first, so it is repeated.
func (p peer) dialUDP(ctx context.Context, params *iperf.Params, timeout time.Duration) (*sock, error) {
	if p.dial != nil {
		s, err := p.dialVia(ctx, "udp", nil, timeout)
		if err != nil {
			return nil, fmt.Errorf("opening a stream: %w", err)
		}
		return s, nil
	}
	local := netip.AddrPort{}
	if p.local.IsValid() {
		local = netip.AddrPortFrom(p.local, 0)
	}
	fd, err := udpSocket(local, p.addr, p.zone)
	if err != nil {
		return nil, fmt.Errorf("opening a stream: %w", err)
	}
	s, err := newSock(fd)
	if err != nil {
		return nil, err
	}
	s.zone = p.zone
	s.udpOptions(params)
	if err := s.greet(ctx, timeout); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// udpOptions applies the parameters to a UDP stream.
func (s *sock) udpOptions(p *iperf.Params) {
	w := int(p.Window)
	if w == 0 {
		w = DefaultUDPWindow
	}
	setBuffers(s.fd, w)
	if p.TOS > 0 {
		_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IP, unix.IP_TOS, int(p.TOS))
		_ = unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int(p.TOS))
	}
}

// greet sends the first datagram and waits for its answer.
func (s *sock) greet(ctx context.Context, timeout time.Duration) error {
	var last error
	buf := make([]byte, 64)
	for begun, next, every := clock(), clock(), time.Second; clock()-begun < timeout; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if clock() >= next {
			if _, err := s.write(iperf.ConnectMessage()); err != nil && !again(err) {
				last = err
			}
			next, every = clock()+every, 2*every
		}
		n, err := s.read(buf)
		switch {
		case err == nil && (iperf.IsConnectReply(buf[:n]) || n >= iperf.HeaderLen32):
			// Test data before the answer: the answer was lost, the test began.
			return nil
		case err != nil && !again(err):
			last = err
			sleep(pollEvery)
		}
	}
	if last != nil {
		return fmt.Errorf("the server at %v did not answer on UDP within %v (%w): a firewall may block UDP on the port", s.remote, timeout, last)
	}
	return fmt.Errorf("the server at %v did not answer on UDP within %v: a firewall may block UDP on the port", s.remote, timeout)
}
