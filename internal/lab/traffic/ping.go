// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// ICMP protocol numbers.
const (
	protoICMP   = 1
	protoICMPv6 = 58
)

// pingPoll is how often a waiting ping looks at its context.
const pingPoll = 20 * time.Millisecond

// lastID gives every Pinger an identifier of its own: raw sockets see all echo
// replies of their node.
var lastID atomic.Uint32

// Pinger sends ICMP or ICMPv6 echo requests with Don't Fragment set and checks
// that the payload comes back unchanged.
type Pinger struct {
	c    *net.IPConn
	dst  netip.Addr
	id   int
	seq  uint16
	data []byte
}

// NewPinger opens a raw socket towards an address. from may be zero. A
// link-local destination needs its zone.
func NewPinger(from, dst netip.Addr) (*Pinger, error) {
	network, level, opt, val := "ip4:icmp", unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
	if dst.Is6() {
		network, level, opt, val = "ip6:ipv6-icmp", unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
	}
	bind := ""
	if from.IsValid() {
		bind = from.String()
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if e := rc.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), level, opt, val)
			if err == nil && dst.Is6() {
				err = unix.SetsockoptInt(int(fd), level, unix.IPV6_DONTFRAG, 1)
			}
		}); e != nil {
			return e
		}
		return err
	}}
	c, err := lc.ListenPacket(context.Background(), network, bind)
	if err != nil {
		return nil, fmt.Errorf("traffic: %w", err)
	}
	p := &Pinger{c: c.(*net.IPConn), dst: dst, id: int(lastID.Add(1) & 0xffff), data: make([]byte, 1<<16)}
	_, _ = rand.NewChaCha8([32]byte{2}).Read(p.data) // never fails
	return p, nil
}

// Close closes the socket.
func (p *Pinger) Close() error { return p.c.Close() }

// Ping sends one echo request with size bytes of payload and waits for its
// answer. A request too large for the device or for the known path is refused
// by the kernel with EMSGSIZE. It returns the round-trip time.
func (p *Pinger) Ping(ctx context.Context, size int) (time.Duration, error) {
	p.seq++
	// The payload differs from request to request, so that an answer to another
	// one cannot be taken for it.
	payload := append([]byte(nil), p.data[int(p.seq)%512:][:size]...)
	if size >= 2 {
		binary.BigEndian.PutUint16(payload, p.seq)
	}
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: p.id, Seq: int(p.seq), Data: payload}}
	if p.dst.Is6() {
		m.Type = ipv6.ICMPTypeEchoRequest
	}
	b, err := m.Marshal(nil) // ICMPv6: the kernel computes the checksum
	if err != nil {
		return 0, fmt.Errorf("traffic: ping: %w", err)
	}
	start := time.Now()
	if _, err := p.c.WriteTo(b, &net.IPAddr{IP: p.dst.AsSlice(), Zone: p.dst.Zone()}); err != nil {
		return 0, fmt.Errorf("traffic: ping of %d bytes to %s: %w", size, p.dst, err)
	}
	buf := make([]byte, 1<<16)
	for {
		// Short deadlines of its own, because one set when the context ends
		// could hit the next ping instead.
		if err := p.c.SetReadDeadline(time.Now().Add(pingPoll)); err != nil {
			return 0, fmt.Errorf("traffic: ping of %d bytes to %s: %w", size, p.dst, err)
		}
		n, from, err := p.c.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if ctx.Err() != nil {
				return 0, fmt.Errorf("traffic: ping of %d bytes to %s: no answer: %w", size, p.dst, ctx.Err())
			}
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("traffic: ping of %d bytes to %s: %w", size, p.dst, err)
		}
		elapsed := time.Since(start)
		echo := p.reply(buf[:n])
		if echo == nil || echo.Seq != int(p.seq) {
			continue
		}
		if got := from.(*net.IPAddr); !bytes.Equal(got.IP, p.dst.AsSlice()) && !got.IP.Equal(p.dst.AsSlice()) {
			return 0, fmt.Errorf("traffic: ping of %d bytes to %s: answer from %s", size, p.dst, from)
		}
		if !bytes.Equal(echo.Data, payload) {
			return 0, fmt.Errorf("traffic: ping of %d bytes to %s: the payload came back changed", size, p.dst)
		}
		return elapsed, nil
	}
}

// reply parses an echo reply to this pinger; nil for everything else that a raw
// socket sees.
func (p *Pinger) reply(b []byte) *icmp.Echo {
	proto, want := protoICMP, icmp.Type(ipv4.ICMPTypeEchoReply)
	if p.dst.Is6() {
		proto, want = protoICMPv6, ipv6.ICMPTypeEchoReply
	}
	m, err := icmp.ParseMessage(proto, b)
	if err != nil || m.Type != want {
		return nil
	}
	echo, ok := m.Body.(*icmp.Echo)
	if !ok || echo.ID != p.id {
		return nil
	}
	return echo
}
