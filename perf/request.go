// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"kohaku/perf/iperf"
)

const (
	// maxRequest bounds a request and its answer, in bytes.
	maxRequest = 65507
	// answerWithin is how long a UDP request, or a connection, waits for its
	// answer before it counts as lost.
	answerWithin = time.Second
)

// prober makes requests on one stream and keeps their times.
type prober struct {
	hist       *hdrhistogram.Histogram
	lost, late int64
	meter      *Meter // nil: all count
	warm       bool   // the first exchange, which resolves addresses and fills caches, is over
}

// took counts a request that was begun and answered at these times.
func (p *prober) took(s *stream, from, now time.Duration) {
	if !p.warm {
		p.warm = true
		return
	}
	if p.meter.answered(now, now-from) {
		record(p.hist, now-from)
	}
	s.n.requests.Add(1)
}

// exchangeTCP sends a request, waits for the whole answer, and again, until
// senders are told to stop.
func (f *flow) exchangeTCP(s *stream, p *prober, buf []byte) error {
	for f.sending() {
		from := clock()
		if stopped, err := f.whole(s, buf, s.sock.write); err != nil || stopped {
			return err
		}
		if stopped, err := f.whole(s, buf, s.sock.read); err != nil || stopped {
			return err
		}
		p.took(s, from, clock())
	}
	return nil
}

// whole repeats op until buf is through.
func (f *flow) whole(s *stream, buf []byte, op func([]byte) (int, error)) (stopped bool, err error) {
	for done := 0; done < len(buf); {
		if f.stopSend.Load() {
			return true, nil
		}
		n, err := op(buf[done:])
		switch {
		case again(err):
		case err != nil:
			return false, fmt.Errorf("exchanging with %v: %w", s.sock.remote, err)
		case n == 0:
			return false, fmt.Errorf("exchanging with %v: %w: it closed the stream", s.sock.remote, io.ErrUnexpectedEOF)
		}
		done += n
	}
	return false, nil
}

// exchangeUDP does the same with datagrams, of which one may get lost.
func (f *flow) exchangeUDP(s *stream, p *prober, buf []byte) error {
	answer := make([]byte, len(buf)+1)
	for seq := uint64(1); f.sending(); seq++ {
		from := clock()
		iperf.PutHeader(buf, from, seq, true)
		if _, err := s.sock.write(buf); err != nil && !again(err) && !refused(err) {
			return fmt.Errorf("sending to %v: %w", s.sock.remote, err)
		}
		for {
			n, err := s.sock.read(answer)
			now := clock()
			if err != nil && !again(err) && !refused(err) {
				return fmt.Errorf("receiving from %v: %w", s.sock.remote, err)
			}
			if f.stopSend.Load() {
				return nil
			}
			if err == nil {
				_, got, ok := iperf.ParseHeader(answer[:n], true)
				if ok && got == seq {
					p.took(s, from, now)
					break
				}
				if ok && got < seq {
					p.late++
				}
			}
			if now-from > answerWithin {
				p.lost++
				break
			}
		}
	}
	return nil
}

// echoTCP answers requests until receivers are told to stop.
func (f *flow) echoTCP(s *stream, buf []byte) error {
	have := 0
	for !f.stopRecv.Load() {
		n, err := s.sock.read(buf[have:])
		switch {
		case again(err), n == 0 && f.stopRecv.Load():
			continue
		case err != nil:
			return fmt.Errorf("receiving from %v: %w", s.sock.remote, err)
		case n == 0:
			return fmt.Errorf("receiving from %v: %w: it closed the stream", s.sock.remote, io.ErrUnexpectedEOF)
		}
		if have += n; have < len(buf) {
			continue
		}
		have = 0
		s.n.bytes.Add(int64(len(buf)))
		s.n.requests.Add(1)
		for out := 0; out < len(buf) && !f.stopRecv.Load(); {
			n, err := s.sock.write(buf[out:])
			if err != nil && !again(err) {
				return fmt.Errorf("answering %v: %w", s.sock.remote, err)
			}
			out += n
		}
	}
	return nil
}

// echoUDP sends every datagram back.
func (f *flow) echoUDP(s *stream, buf []byte) error {
	for !f.stopRecv.Load() {
		n, err := s.sock.read(buf)
		if err != nil {
			if again(err) || refused(err) {
				continue
			}
			return fmt.Errorf("receiving from %v: %w", s.sock.remote, err)
		}
		if _, _, ok := iperf.ParseHeader(buf[:n], true); !ok {
			continue
		}
		s.n.bytes.Add(int64(n))
		s.n.requests.Add(1)
		if _, err := s.sock.write(buf[:n]); err != nil && !again(err) && !refused(err) {
			return fmt.Errorf("answering %v: %w", s.sock.remote, err)
		}
	}
	return nil
}

// connects opens a connection, sends the cookie, waits for one byte and drops
// the connection, until senders are told to stop. It drops it with a reset, so
// that neither end keeps it in TIME_WAIT and runs out of ports.
func (f *flow) connects(s *stream, p *prober, local netip.Addr, zone string, cookie iperf.Cookie) error {
	remote := s.sock.remote
	failing := 0
	for f.sending() {
		from := clock()
		var err error
		if f.dial != nil {
			err = connectVia(f.dial, remote, cookie)
		} else {
			err = connectOnce(local, remote, zone, cookie)
		}
		if err == nil {
			p.took(s, from, clock())
			failing = 0
			continue
		}
		p.lost++
		if failing++; failing >= 100 {
			return fmt.Errorf("connecting to %v failed %d times in a row: %w", remote, failing, err)
		}
		sleep(time.Millisecond)
	}
	return nil
}

func connectOnce(local netip.Addr, remote netip.AddrPort, zone string, cookie iperf.Cookie) error {
	family := unix.AF_INET
	if remote.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(answerWithin.Nanoseconds())
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if local.IsValid() {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(local, 0), zone)); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, sockaddr(remote, zone)); err != nil {
		return err
	}
	if _, err := unix.Write(fd, cookie[:]); err != nil {
		return err
	}
	var b [1]byte
	n, err := unix.Read(fd, b[:])
	if err == nil && n != 1 {
		err = io.ErrUnexpectedEOF
	}
	return err
}
