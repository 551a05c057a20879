// SPDX-License-Identifier: Apache-2.0

package netstack

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// gonet's types come close to what package net promises. The wrappers here add
// what is missing: errors that can be told apart, net.ErrClosed after Close
// (also when it was the Device that was closed), and a Close that wakes whoever
// waits.

// conn is a TCP connection. It has CloseRead and CloseWrite too.
type conn struct {
	*gonet.TCPConn
	dev    *Device
	closed atomic.Bool
}

func (d *Device) conn(t *gonet.TCPConn) (*conn, error) {
	c := &conn{TCPConn: t, dev: d}
	if !d.track(c) {
		_ = t.Close() // always nil
		return nil, d.errClosed()
	}
	return c, nil
}

func (c *conn) Read(b []byte) (int, error) {
	if len(b) == 0 && !c.closed.Load() {
		return 0, nil
	}
	n, err := c.TCPConn.Read(b)
	return n, c.explain("read", err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	return n, c.explain("write", err)
}

func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return c.explain("close", net.ErrClosed)
	}
	c.dev.forget(c)
	return c.TCPConn.Close()
}

func (c *conn) shut() {
	c.closed.Store(true)
	_ = c.TCPConn.Close() // always nil
}

func (c *conn) explain(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.closed.Load():
		return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: net.ErrClosed}
	}
	return translate(op, err)
}

type listener struct {
	*gonet.TCPListener
	dev    *Device
	closed atomic.Bool
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.TCPListener.Accept()
	if err != nil {
		if l.closed.Load() {
			err = net.ErrClosed
		}
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: translate("accept", err)}
	}
	return l.dev.conn(c.(*gonet.TCPConn))
}

func (l *listener) Close() error {
	if l.closed.Load() {
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	l.dev.forget(l)
	l.shut()
	return nil
}

func (l *listener) shut() {
	l.closed.Store(true)
	l.TCPListener.Shutdown()  // wakes Accept
	_ = l.TCPListener.Close() // always nil
}

// packetConn is a UDP socket, connected or not.
type packetConn struct {
	*gonet.UDPConn
	dev    *Device
	closed atomic.Bool
}

func (d *Device) packetConn(u *gonet.UDPConn) (*packetConn, error) {
	c := &packetConn{UDPConn: u, dev: d}
	if !d.track(c) {
		_ = u.Close() // always nil
		return nil, d.errClosed()
	}
	return c, nil
}

func (c *packetConn) Read(b []byte) (int, error) {
	n, err := c.UDPConn.Read(b)
	return n, c.explain("read", err)
}

func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, a, err := c.UDPConn.ReadFrom(b)
	return n, a, c.explain("read", err)
}

func (c *packetConn) Write(b []byte) (int, error) {
	n, err := c.UDPConn.Write(b)
	return n, c.explain("write", err)
}

func (c *packetConn) WriteTo(b []byte, a net.Addr) (int, error) {
	n, err := c.UDPConn.WriteTo(b, a)
	return n, c.explain("write", err)
}

func (c *packetConn) Close() error {
	if c.closed.Swap(true) {
		return c.explain("close", net.ErrClosed)
	}
	c.dev.forget(c)
	return c.UDPConn.Close()
}

func (c *packetConn) shut() {
	c.closed.Store(true)
	_ = c.UDPConn.Close() // always nil
}

func (c *packetConn) explain(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case c.closed.Load():
		return &net.OpError{Op: op, Net: "udp", Source: c.LocalAddr(), Err: net.ErrClosed}
	}
	return translate(op, err)
}

// errnos are the system's names for gVisor's errors, which gonet passes as text
// alone.
var errnos = map[string]syscall.Errno{
	(&tcpip.ErrConnectionRefused{}).String():  syscall.ECONNREFUSED,
	(&tcpip.ErrConnectionReset{}).String():    syscall.ECONNRESET,
	(&tcpip.ErrConnectionAborted{}).String():  syscall.ECONNABORTED,
	(&tcpip.ErrAborted{}).String():            syscall.EPIPE,
	(&tcpip.ErrClosedForSend{}).String():      syscall.EPIPE,
	(&tcpip.ErrTimeout{}).String():            syscall.ETIMEDOUT,
	(&tcpip.ErrHostUnreachable{}).String():    syscall.EHOSTUNREACH,
	(&tcpip.ErrHostDown{}).String():           syscall.EHOSTDOWN,
	(&tcpip.ErrNetworkUnreachable{}).String(): syscall.ENETUNREACH,
	(&tcpip.ErrPortInUse{}).String():          syscall.EADDRINUSE,
	(&tcpip.ErrNoPortAvailable{}).String():    syscall.EADDRNOTAVAIL,
	(&tcpip.ErrBadLocalAddress{}).String():    syscall.EADDRNOTAVAIL,
	(&tcpip.ErrMessageTooLong{}).String():     syscall.EMSGSIZE,
	(&tcpip.ErrNoBufferSpace{}).String():      syscall.ENOBUFS,
}

// translate puts the errno in place of gVisor's text, inside the net.OpError
// that gonet may have made.
func translate(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	var o *net.OpError
	if errors.As(err, &o) {
		if e, ok := errnos[o.Err.Error()]; ok {
			c := *o
			c.Err = os.NewSyscallError(op, e)
			return &c
		}
		return err
	}
	if e, ok := errnos[err.Error()]; ok {
		return os.NewSyscallError(op, e)
	}
	return err
}
