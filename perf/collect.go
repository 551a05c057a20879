// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/perf/iperf"
)

// accepted is a stream that has arrived, or why none will.
type accepted struct {
	sock *sock
	err  error
}

// createStreams lets the client open its streams: first those that this end
// receives on, then those that it sends on, which is the client's order too.
func (s *session) createStreams() error {
	receive, send := 0, 0
	if s.m.res.Receives() {
		receive = int(s.params.Parallel)
	}
	if s.m.res.Sends() {
		send = int(s.params.Parallel)
	}
	arrive := make(chan accepted)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(quit)
	if s.params.UDP {
		u, err := s.listenUDP()
		if err != nil {
			s.deadline(handshakeTimeout)
			_ = iperf.WriteServerError(s.conn, &iperf.RemoteError{Code: iperf.CodeListen})
			return err
		}
		wg.Go(func() { u.accept(s, receive+send, arrive, quit) })
	} else {
		s.enter(creating)
		defer s.enter(negotiating)
		wg.Go(func() { s.acceptTCP(receive+send, arrive, quit) })
	}
	ready := iperf.CreateStreams
	if s.params.Extended() {
		ready = iperf.CreateExtended
	}
	if err := s.send(ready, handshakeTimeout); err != nil {
		return err
	}
	ch := s.watch()
	timeout := time.NewTimer(streamTimeout)
	defer timeout.Stop()
	for i := range receive + send {
		select {
		case a := <-arrive:
			if a.err != nil {
				s.unwatch(ch)
				return s.why(a.err)
			}
			s.m.add(a.sock, i >= receive)
		case <-timeout.C:
			s.unwatch(ch)
			return fmt.Errorf("%d of %d streams arrived within %v: a firewall may block them", i, receive+send, streamTimeout)
		case msg := <-ch:
			if errors.Is(msg.err, io.EOF) {
				return errors.New("the client closed the control connection before its streams stood")
			}
			return s.clientSays(msg, nil)
		}
	}
	if state, ok := s.unwatch(ch); ok {
		return s.clientSays(message{state: state}, nil)
	}
	return nil
}

// acceptTCP turns connections with the session's cookie into streams. They are
// taken in the order in which they were accepted, which is the order that the
// client made them in and counts them by; their cookies may be read in another.
func (s *session) acceptTCP(n int, arrive chan<- accepted, quit <-chan struct{}) {
	conns := make([]arrival, 0, n)
	drop := func() {
		for _, c := range conns {
			c.conn.Close()
		}
	}
	for len(conns) < n {
		select {
		case c := <-s.incoming:
			conns = append(conns, c)
		case <-quit:
			drop()
			return
		}
	}
	slices.SortFunc(conns, func(a, b arrival) int { return cmp.Compare(a.order, b.order) })
	for len(conns) > 0 {
		sk, err := takeSock(conns[0].conn)
		conns = conns[1:]
		if err == nil {
			if err = tcpOptions(sk.fd, s.params); err != nil {
				sk.close()
				sk = nil
			}
		}
		select {
		case arrive <- accepted{sk, err}:
		case <-quit:
			if sk != nil {
				sk.close()
			}
			drop()
			return
		}
		if err != nil {
			drop()
			return
		}
	}
}

// udpListener waits for the first datagrams of UDP streams. It is bound to the
// address that the client reached, so that the answers come from there, on a
// machine with several addresses too.
type udpListener struct {
	fd    int
	local netip.AddrPort
	zone  string
	peer  netip.Addr // nobody else is answered
	seen  map[netip.AddrPort]bool
}

func (s *session) listenUDP() (*udpListener, error) {
	la := s.conn.LocalAddr().(*net.TCPAddr)
	local := netip.AddrPortFrom(la.AddrPort().Addr().Unmap().WithZone(""), uint16(la.Port))
	fd, err := udpSocket(local, netip.AddrPort{}, la.Zone)
	if err != nil {
		return nil, fmt.Errorf("listening for UDP streams: %w", err)
	}
	tv := unix.NsecToTimeval(pollEvery.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listening for UDP streams: %w", err)
	}
	return &udpListener{fd: fd, local: local, zone: la.Zone, peer: s.m.res.Peer.Addr().WithZone(""), seen: map[netip.AddrPort]bool{}}, nil
}

// accept answers n streams and closes the listening socket.
func (u *udpListener) accept(s *session, n int, arrive chan<- accepted, quit <-chan struct{}) {
	defer unix.Close(u.fd)
	buf := make([]byte, 64)
	for got := 0; got < n; {
		select {
		case <-quit:
			return
		default:
		}
		size, from, err := unix.Recvfrom(u.fd, buf, 0)
		if err != nil {
			continue // pollEvery is over, or an answer was refused; quit ends it
		}
		remote := addrPort(from)
		reply, ok := iperf.ConnectReply(buf[:size])
		if !ok || remote.Addr() != u.peer || u.seen[remote] {
			continue
		}
		sk, err := u.stream(s.params, remote, reply)
		if err == nil {
			u.seen[remote] = true
			got++
		}
		select {
		case arrive <- accepted{sk, err}:
		case <-quit:
			if sk != nil {
				sk.close()
			}
			return
		}
		if err != nil {
			return
		}
	}
}

// stream makes the socket of one stream and tells its client.
func (u *udpListener) stream(p *iperf.Params, remote netip.AddrPort, reply []byte) (*sock, error) {
	fd, err := udpSocket(u.local, remote, u.zone)
	if err != nil {
		return nil, err
	}
	sk, err := newSock(fd)
	if err != nil {
		return nil, err
	}
	sk.zone = u.zone
	sk.udpOptions(p)
	if _, err := sk.write(reply); err != nil && !again(err) && !refused(err) {
		sk.close()
		return nil, fmt.Errorf("answering a UDP stream of %v: %w", remote, err)
	}
	return sk, nil
}
