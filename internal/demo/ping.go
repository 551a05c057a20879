// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// place is where a socket is made: Do runs f on a thread that is inside the
// namespace, and the socket stays there after f returned. The lab's nodes are
// places.
type place interface {
	Do(f func() error) error
}

// PingResult is what a series of echo requests brought.
type PingResult struct {
	Target   netip.Addr    `json:"target"`
	Sent     int           `json:"sent"`
	Received int           `json:"received"`
	Min      time.Duration `json:"min_ns"`
	Avg      time.Duration `json:"avg_ns"`
	Max      time.Duration `json:"max_ns"`
}

func (r PingResult) String() string {
	if r.Received == 0 {
		return fmt.Sprintf("no answer to %d pings", r.Sent)
	}
	return fmt.Sprintf("%d of %d answered, round trip %s / %s / %s (min / avg / max)",
		r.Received, r.Sent, millis(r.Min), millis(r.Avg), millis(r.Max))
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
}

const (
	pingSize    = 56 // payload bytes, as ping(8)
	pingGap     = 20 * time.Millisecond
	pingTimeout = time.Second // per echo request
)

// ping sends count echo requests from a raw socket made at p and counts each
// answer once. Lost requests are not an error; that no request could be sent
// is.
func ping(ctx context.Context, p place, target netip.Addr, count int) (PingResult, error) {
	r := PingResult{Target: target}
	var conn *icmp.PacketConn
	if err := p.Do(func() (err error) {
		conn, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0")
		return err
	}); err != nil {
		return r, fmt.Errorf("raw ICMP socket: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	id := rand.N(1 << 16)
	var sum time.Duration
	for seq := range count {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		rtt, err := echo(conn, target, id, seq)
		r.Sent++
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
		case err != nil:
			return r, err
		default:
			if r.Received == 0 || rtt < r.Min {
				r.Min = rtt
			}
			r.Max = max(r.Max, rtt)
			sum += rtt
			r.Received++
			r.Avg = sum / time.Duration(r.Received)
		}
		time.Sleep(pingGap)
	}
	return r, nil
}

// echo sends one request and waits for its reply. A raw socket sees every ICMP
// message of its namespace, so what belongs to others is read past.
func echo(conn *icmp.PacketConn, target netip.Addr, id, seq int) (time.Duration, error) {
	payload := make([]byte, pingSize)
	binary.BigEndian.PutUint64(payload, rand.Uint64())
	request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: seq, Data: payload}}
	wire, err := request.Marshal(nil)
	if err != nil {
		return 0, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(pingTimeout)); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := conn.WriteTo(wire, &net.IPAddr{IP: target.AsSlice()}); err != nil {
		return 0, err
	}
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return 0, err
		}
		rtt := time.Since(start)
		if a, ok := from.(*net.IPAddr); !ok || !a.IP.Equal(target.AsSlice()) {
			continue
		}
		reply, err := icmp.ParseMessage(ipv4.ICMPTypeEchoReply.Protocol(), buf[:n])
		if err != nil || reply.Type != ipv4.ICMPTypeEchoReply {
			continue
		}
		e, ok := reply.Body.(*icmp.Echo)
		if ok && e.ID == id && e.Seq == seq && string(e.Data) == string(payload) {
			return rtt, nil
		}
	}
}
