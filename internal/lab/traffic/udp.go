// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A datagram is a number (8 bytes), a hash of number and content (8 bytes), and
// content.
const (
	udpHeader = 16
	// MinUDP and MaxUDP are the payload sizes that can be sent.
	MinUDP = udpHeader
	MaxUDP = 65507
)

// UDPStats is what arrived at a sink.
type UDPStats struct {
	Received   uint64 // good datagrams, each number once
	Bytes      uint64 // their payload
	Duplicated uint64 // numbers seen before
	Reordered  uint64 // numbers lower than the highest seen
	Corrupt    uint64 // wrong hash or too short
}

// UDPSink receives the datagrams of one sender and checks them.
type UDPSink struct {
	c    *net.UDPConn
	done chan struct{}

	mu      sync.Mutex
	stats   UDPStats
	seen    []uint64 // bitmap by number
	highest uint64   // plus one
	arrived *sync.Cond
}

// ListenUDP opens a sink on the address; port 0 chooses one.
func ListenUDP(addr netip.AddrPort) (*UDPSink, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if e := rc.Control(func(fd uintptr) {
			// As much as the machine allows: what counts is the network's loss.
			if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20) != nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<20)
			}
		}); e != nil {
			return e
		}
		return err
	}}
	c, err := lc.ListenPacket(context.Background(), "udp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("traffic: %w", err)
	}
	s := &UDPSink{c: c.(*net.UDPConn), done: make(chan struct{})}
	s.arrived = sync.NewCond(&s.mu)
	go s.run()
	return s, nil
}

// Addr is where the sink listens.
func (s *UDPSink) Addr() netip.AddrPort { return s.c.LocalAddr().(*net.UDPAddr).AddrPort() }

// Close ends the sink.
func (s *UDPSink) Close() error {
	err := s.c.Close()
	<-s.done
	return err
}

// Stats returns what has arrived so far.
func (s *UDPSink) Stats() UDPStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// SocketDrops returns how many datagrams the sink's own socket had no room for.
func (s *UDPSink) SocketDrops() (uint64, error) {
	rc, err := s.c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info [9]uint32 // SK_MEMINFO_VARS, include/uapi/linux/sock_diag.h
	var errno error
	err = rc.Control(func(fd uintptr) { errno = memInfo(int(fd), &info) })
	return uint64(info[8]), errors.Join(err, errno)
}

// Wait waits until n datagrams have arrived, whatever their state, or the
// context ends.
func (s *UDPSink) Wait(ctx context.Context, n uint64) error {
	defer context.AfterFunc(ctx, s.arrived.Broadcast)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.total() < n {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("traffic: %d of %d datagrams arrived: %w", s.total(), n, err)
		}
		s.arrived.Wait()
	}
	return nil
}

func (s *UDPSink) total() uint64 { return s.stats.Received + s.stats.Duplicated + s.stats.Corrupt }

func (s *UDPSink) run() {
	defer close(s.done)
	buf := make([]byte, 1<<16)
	for {
		n, err := s.c.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier datagram
		}
		s.mu.Lock()
		s.take(buf[:n])
		s.mu.Unlock()
		s.arrived.Broadcast()
	}
}

func (s *UDPSink) take(b []byte) {
	if len(b) < udpHeader || digest(b) != binary.BigEndian.Uint64(b[8:]) {
		s.stats.Corrupt++
		return
	}
	n := binary.BigEndian.Uint64(b)
	for uint64(len(s.seen)) <= n/64 {
		s.seen = append(s.seen, 0)
	}
	bit := uint64(1) << (n % 64)
	if s.seen[n/64]&bit != 0 {
		s.stats.Duplicated++
		return
	}
	s.seen[n/64] |= bit
	s.stats.Received++
	s.stats.Bytes += uint64(len(b))
	if n+1 < s.highest {
		s.stats.Reordered++
	}
	s.highest = max(s.highest, n+1)
}

// digest is the hash of a datagram's number, size and content.
func digest(b []byte) uint64 {
	h := sha256.New()
	h.Write(b[:8])
	h.Write(b[udpHeader:])
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(b)))
	h.Write(size[:])
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// UDPSender sends numbered datagrams to a sink.
type UDPSender struct {
	c    *net.UDPConn
	rng  *rand.ChaCha8
	next uint64
	buf  []byte
}

// DialUDP opens a sender. The address to send from may be zero.
func DialUDP(from netip.Addr, to netip.AddrPort) (*UDPSender, error) {
	var local *net.UDPAddr
	if from.IsValid() {
		local = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return nil, fmt.Errorf("traffic: %w", err)
	}
	return &UDPSender{c: c, rng: rand.NewChaCha8([32]byte{1}), buf: make([]byte, MaxUDP)}, nil
}

// Close ends the sender.
func (u *UDPSender) Close() error { return u.c.Close() }

// Sent returns how many datagrams the kernel took.
func (u *UDPSender) Sent() uint64 { return u.next }

// Send sends one datagram of size bytes payload. A datagram that the kernel
// refuses uses no number up.
func (u *UDPSender) Send(size int) error {
	_, err := u.c.Write(u.fill(u.buf[:0], u.next, size))
	if err == nil {
		u.next++
	}
	return err
}

// SendTrain sends count datagrams of size bytes payload in one call, as a
// super-frame (UDP_SEGMENT). count*size must stay below MaxUDP.
func (u *UDPSender) SendTrain(size, count int) error {
	b := u.buf[:0]
	for i := range count {
		b = u.fill(b, u.next+uint64(i), size)
	}
	oob := make([]byte, unix.CmsgSpace(2))
	oob = putSegment(oob, uint16(size))
	if _, _, err := u.c.WriteMsgUDP(b, oob, nil); err != nil {
		return err
	}
	u.next += uint64(count)
	return nil
}

// fill appends datagram n to b.
func (u *UDPSender) fill(b []byte, n uint64, size int) []byte {
	size = max(size, MinUDP)
	at := len(b)
	b = b[:at+size]
	d := b[at:]
	binary.BigEndian.PutUint64(d, n)
	_, _ = u.rng.Read(d[udpHeader:]) // never fails
	binary.BigEndian.PutUint64(d[8:], digest(d))
	return b
}

// SendAll sends one datagram of each size and keeps at most window of them
// under way: it waits for the sink. When nothing arrives for patience, it takes
// what is under way for lost and goes on.
func (u *UDPSender) SendAll(ctx context.Context, sink *UDPSink, sizes []int, window uint64, patience time.Duration) error {
	base := sink.Stats()
	arrived := base.Received + base.Duplicated + base.Corrupt
	for i, size := range sizes {
		if err := u.Send(size); err != nil {
			return fmt.Errorf("traffic: datagram %d of %d bytes: %w", i, size, err)
		}
		arrived++
		if uint64(i)%window == window-1 || i == len(sizes)-1 {
			wait, cancel := context.WithTimeout(ctx, patience)
			err := sink.Wait(wait, arrived)
			cancel()
			if err != nil {
				if ctx.Err() != nil {
					return err
				}
				now := sink.Stats()
				arrived = now.Received + now.Duplicated + now.Corrupt
			}
		}
	}
	return nil
}
