// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pollEvery is how long a blocking call on a stream may last before the stream
// looks whether it should stop.
const pollEvery = 100 * time.Millisecond

// sock owns one blocking socket, or a connection of another stack (see
// connSock). Reads and writes return EAGAIN after pollEvery,
// so whoever wants to close it asks its user to stop, waits, and closes then: a
// descriptor is never closed under a running call.
type sock struct {
	fd            int      // -1: conn
	conn          net.Conn // nil: fd
	local, remote netip.AddrPort
	zone          string // of an IPv6 link-local address
	alone         bool   // see beAlone
	once          sync.Once
}

// takeSock moves the socket of a connection out of the runtime's poller: it
// duplicates the descriptor, makes it blocking and closes the connection. The
// connection is closed in every case.
func takeSock(c interface {
	syscall.Conn
	Close() error
}) (*sock, error) {
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(p uintptr) {
		fd, dupErr = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("fcntl", dupErr)
	}
	return newSock(fd)
}

// newSock takes ownership of a connected socket; on an error it is closed.
func newSock(fd int) (*sock, error) {
	s := &sock{fd: fd}
	if err := s.prepare(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *sock) prepare() error {
	if err := unix.SetNonblock(s.fd, false); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	tv := unix.NsecToTimeval(pollEvery.Nanoseconds())
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv); err != nil {
		return os.NewSyscallError("setsockopt SO_SNDTIMEO", err)
	}
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	s.local = addrPort(sa)
	if sa, err = unix.Getpeername(s.fd); err != nil {
		return os.NewSyscallError("getpeername", err)
	}
	s.remote = addrPort(sa)
	return nil
}

// wake ends a read that waits for data, and lets later ones return at once: what
// still arrives is not wanted any more. The peer does not notice.
func (s *sock) wake() {
	if s.conn != nil {
		_ = s.conn.SetReadDeadline(past)
		return
	}
	_ = unix.Shutdown(s.fd, unix.SHUT_RD)
}

// close closes the descriptor, once. Nobody may be using it.
func (s *sock) close() {
	s.once.Do(func() {
		if s.conn != nil {
			s.conn.Close()
			return
		}
		unix.Close(s.fd)
	})
}

// write writes once and returns how much the kernel took.
func (s *sock) write(b []byte) (int, error) {
	switch {
	case s.conn != nil:
		return s.connWrite(b)
	case s.alone:
		return s.writeAlone(b)
	}
	for {
		n, err := unix.Write(s.fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// read reads once. Zero bytes without an error is the end of the stream.
func (s *sock) read(b []byte) (int, error) {
	switch {
	case s.conn != nil:
		return s.connRead(b)
	case s.alone:
		return s.readAlone(b)
	}
	for {
		n, err := unix.Read(s.fd, b)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// bufferSizes gives what the kernel granted, with its own doubling.
func (s *sock) bufferSizes() (sndbuf, rcvbuf int) {
	sndbuf, _ = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	rcvbuf, _ = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return sndbuf, rcvbuf
}

// setBuffers asks for socket buffers of n bytes. The kernel may grant less; that
// is not an error. A privileged process goes beyond the system's limit, but only
// up to DefaultUDPWindow, as the number may come from a peer.
func setBuffers(fd, n int) {
	set := func(force, plain int) {
		if n <= DefaultUDPWindow && unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, n) == nil {
			return
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, n)
	}
	set(unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
	set(unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
}

// again reports whether an operation only ran into pollEvery.
func again(err error) bool { return err == unix.EAGAIN }

// refused reports an error on a UDP socket that is about an earlier datagram or
// passes by itself: the peer's port is closed, a queue is full, a firewall said no.
func refused(err error) bool {
	return err == unix.ECONNREFUSED || err == unix.ENOBUFS || err == unix.EPERM ||
		err == unix.EHOSTUNREACH || err == unix.ENETUNREACH
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// udpSocket opens a UDP socket bound to local and, if remote is valid, connected
// to it. Several may share a local address: the kernel gives a datagram to the
// one connected to its sender first.
func udpSocket(local, remote netip.AddrPort, ifZone string) (fd int, err error) {
	family := unix.AF_INET
	if local.Addr().Is6() || remote.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, os.NewSyscallError("setsockopt SO_REUSEADDR", err)
	}
	if local.IsValid() {
		if err := unix.Bind(fd, sockaddr(local, ifZone)); err != nil {
			return -1, fmt.Errorf("binding UDP %v: %w", local, err)
		}
	}
	if remote.IsValid() {
		if err := unix.Connect(fd, sockaddr(remote, ifZone)); err != nil {
			return -1, fmt.Errorf("connecting UDP to %v: %w", remote, err)
		}
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort, zone string) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneID(zone)}
}
