// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/perf/iperf"
)

// Dial opens a connection, as net.Dialer.DialContext does. A TCP/IP stack in the
// process has one.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// A sock may stand on a connection in place of a descriptor: fd is -1 then, and
// what only the kernel has (batches in one call, buffer sizes, TCP_INFO) is done
// one by one or left out. Its calls answer as a descriptor's do: EAGAIN after
// pollEvery, zero bytes at the end of a stream.

// connSock takes ownership of a connection of another stack.
func connSock(c net.Conn) *sock {
	s := &sock{fd: -1, conn: c}
	s.local, s.remote = connAddr(c.LocalAddr()), connAddr(c.RemoteAddr())
	return s
}

// connAddr gives an address of a TCP or UDP connection; zero if it is neither.
func connAddr(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

func (s *sock) connRead(b []byte) (int, error) {
	_ = s.conn.SetReadDeadline(time.Now().Add(pollEvery))
	n, err := s.conn.Read(b)
	if n > 0 || errors.Is(err, io.EOF) {
		return n, nil // an error with data comes again
	}
	return 0, sockError(err)
}

func (s *sock) connWrite(b []byte) (int, error) {
	_ = s.conn.SetWriteDeadline(time.Now().Add(pollEvery))
	n, err := s.conn.Write(b)
	if _, udp := s.conn.RemoteAddr().(*net.UDPAddr); udp && err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, unix.ENOBUFS // it may pass, and is reported when it does not
	}
	return n, sockError(err)
}

func sockError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return unix.EAGAIN
	}
	return err
}

// sendBatch sends the buffers from..to and returns how many were taken. With an
// error none was.
func (s *sock) sendBatch(b *batch, from, to int) (int, error) {
	if s.conn == nil {
		return b.send(s.fd, from, to)
	}
	for i := from; i < to; i++ {
		if _, err := s.connWrite(b.buf(i)); err != nil {
			if i > from {
				err = nil // those before are out; the next call meets it again
			}
			return i - from, err
		}
	}
	return to - from, nil
}

// recvBatch is recv of a batch; on a connection it takes one datagram and always
// waits for it.
func (s *sock) recvBatch(b *batch, wait bool) (int, error) {
	if s.conn == nil {
		return b.recv(s.fd, wait)
	}
	n, err := s.connRead(b.buf(0))
	if err != nil {
		return 0, err
	}
	b.msgs[0].length = uint32(n)
	return 1, nil
}

// connectVia is connectOnce through another stack.
func connectVia(dial Dial, remote netip.AddrPort, cookie iperf.Cookie) error {
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	c, err := dial(ctx, "tcp", remote.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(answerWithin))
	if _, err := c.Write(cookie[:]); err != nil {
		return err
	}
	var b [1]byte
	_, err = io.ReadFull(c, b[:])
	return err
}

// dialVia opens a stream through another stack. Options of the kernel's sockets
// (window, segment size, TOS, congestion control) do not apply there.
func (p peer) dialVia(ctx context.Context, network string, cookie *iperf.Cookie, timeout time.Duration) (*sock, error) {
	dialCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := p.dial(dialCtx, network, p.addr.String())
	if err != nil {
		return nil, err
	}
	s := connSock(c)
	if cookie == nil {
		err = s.greet(ctx, timeout)
	} else {
		_ = c.SetWriteDeadline(time.Now().Add(timeout))
		_, err = c.Write(cookie[:])
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}
