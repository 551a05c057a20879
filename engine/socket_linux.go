// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"golang.org/x/sys/unix"
)

// socketBuffer is what both directions ask for. A super-frame takes about
// twice its length of it.
const socketBuffer = 8 << 20

// openSockets opens the receiving sockets of every address and the source
// sockets of every family among them.
func (e *Engine) openSockets(c Config) error {
	addrs := c.Listen
	if len(addrs) == 0 {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, a := range addrs {
		a = a.Unmap()
		err := e.openReceivers(a, len(e.workers))
		if len(c.Listen) == 0 && a.Is6() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			continue // a kernel without IPv6, or with IPv6 switched off
		}
		if err != nil {
			return err
		}
		if _, err := e.sources.get(a.Is6(), false); err != nil {
			return fmt.Errorf("open a UDP socket to send from: %w", err)
		}
		if err := e.path.open(a.Is6()); err != nil {
			return fmt.Errorf("open a UDP socket to learn path MTUs with: %w", err)
		}
	}
	return nil
}

func (e *Engine) closeSockets() {
	for _, s := range e.sockets {
		unix.Close(s.fd)
	}
	e.sockets = nil
	e.sources.close()
	e.path.close()
}

// openReceivers opens n sockets that share one port, one for each worker. The first is bound alone,
// since SO_REUSEPORT would let us in beside another program of the same user,
// and each would get half of the traffic.
func (e *Engine) openReceivers(a netip.Addr, n int) error {
	at := netip.AddrPortFrom(a, e.port)
	for i := range n {
		fd, err := udpSocket(a.Is6())
		if err != nil {
			return fmt.Errorf("open a UDP socket for %s: %w", at, err)
		}
		if err := e.bindReceiver(fd, at, i > 0, n > 1); err != nil {
			unix.Close(fd)
			if errors.Is(err, unix.EADDRINUSE) {
				return &PortInUseError{Addr: at, Holder: portHolder(at)}
			}
			return fmt.Errorf("listen on UDP %s: %w", at, err)
		}
		s := &rxSocket{fd: fd}
		e.sockets = append(e.sockets, s)
		if err := e.workers[i].listen(s); err != nil {
			return fmt.Errorf("listen on UDP %s: %w", at, err)
		}
	}
	return nil
}

func (e *Engine) bindReceiver(fd int, at netip.AddrPort, joins, shares bool) error {
	if joins {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	var sa unix.Sockaddr
	if a := at.Addr(); a.Is6() {
		sa6 := &unix.SockaddrInet6{Port: int(at.Port()), Addr: a.As16()}
		if a.Zone() != "" {
			zone, err := zoneIndex(a.Zone())
			if err != nil {
				return err
			}
			sa6.ZoneId = zone
		}
		sa = sa6
	} else {
		sa = &unix.SockaddrInet4{Port: int(at.Port()), Addr: a.As4()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	if shares && !joins {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
	}
	// The outer ECN field has to reach the inner packet (RFC 6040).
	var err error
	if at.Addr().Is6() {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
	} else {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
	}
	if err != nil {
		return err
	}
	if at.Addr().Is6() && e.zeroChecksum6 {
		if err := unix.SetsockoptInt(fd, solUDP, udpNoCheck6RX, 1); err != nil {
			return fmt.Errorf("accept datagrams without a checksum: %w", err)
		}
	}
	if e.groOn {
		if err := unix.SetsockoptInt(fd, solUDP, udpGRO, 1); err != nil {
			e.log.Warn("the kernel refuses UDP_GRO, receiving datagrams one by one", "error", err)
			e.groOn = false
		}
	}
	return nil
}

// udpSocket opens a socket whose datagrams leave without DF, so that an
// underlay with a smaller MTU than was reckoned with may fragment them: the
// kernel's driver does the same (df unset).
func udpSocket(v6 bool) (fd int, err error) {
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return -1, err
	}
	if v6 {
		err = errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT))
	} else {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	// Beyond the system's limit with privilege, else up to it.
	for _, o := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[0], socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, o[1], socketBuffer) // smaller buffers lose frames sooner, no more
		}
	}
	return fd, nil
}

// An rxSocket is one socket on the VXLAN port.
type rxSocket struct {
	fd       int
	complain bool // an error was logged

	// The worker's, see worker.keepWatch.
	came      int  // messages since it last looked
	unwatched bool // not on the worker's epoll instance
}

// note deals with an error of receiving. Most are the kernel's reports about
// datagrams sent earlier and concern nobody here; what is left is said once.
func (s *rxSocket) note(log *slog.Logger, e unix.Errno) {
	switch e {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EMSGSIZE, unix.ENOMEM, unix.ENOBUFS:
		return
	}
	if !s.complain {
		s.complain = true
		log.Error("the VXLAN socket fails", "error", e)
	}
}
