// SPDX-License-Identifier: Apache-2.0

// Command box is what runs in the containers of the integration tests: something
// to talk to, and something that talks and keeps account of what was lost.
//
//	box serve              takes streams on TCP 5000 and echoes datagrams on UDP 5000
//	box send ADDR BYTES    sends one stream and compares its hash
//	box flow ADDR          sends a stream and a beat of datagrams until SIGTERM
//
// The last two print a Result as JSON.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"kohaku/internal/lab/traffic"
)

const (
	port = 5000
	// beat is the pace of datagrams: what is lost is known to that.
	beat = 5 * time.Millisecond
	// linger is how long the last echoes are waited for.
	linger = 500 * time.Millisecond
)

// Result is what a sender saw.
type Result struct {
	Bytes int64   `json:"bytes"` // of the stream, whose hash agreed
	Gbits float64 `json:"gbits"` // per second

	Sent  int   `json:"sent"` // datagrams
	Lost  int   `json:"lost"`
	GapMS int64 `json:"gap_ms"` // longest time without an echo

	Error string `json:"error,omitempty"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve(ctx)
	case len(args) == 3 && args[0] == "send":
		n, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return err
		}
		return tell(args[1], func(to netip.Addr, r *Result) error {
			return stream(ctx, to, r, func(s *traffic.TCPStream) (traffic.TCPResult, error) { return s.Send(ctx, 1, n) })
		})
	case len(args) == 2 && args[0] == "flow":
		return tell(args[1], func(to netip.Addr, r *Result) error { return flow(ctx, to, r) })
	}
	return errors.New("usage: box serve | send ADDR BYTES | flow ADDR")
}

// tell runs a sender and prints what it saw.
func tell(addr string, send func(netip.Addr, *Result) error) error {
	to, err := netip.ParseAddr(addr)
	if err != nil {
		return err
	}
	var r Result
	if err := send(to, &r); err != nil {
		r.Error = err.Error()
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func serve(ctx context.Context) error {
	sink, err := traffic.ListenTCP(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if err != nil {
		return err
	}
	defer sink.Close()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { c.Close() })
	buf := make([]byte, 64)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err == nil {
			_, _ = c.WriteToUDPAddrPort(buf[:n], from) // what is not sent counts as lost
		}
	}
}

func stream(ctx context.Context, to netip.Addr, r *Result, send func(*traffic.TCPStream) (traffic.TCPResult, error)) error {
	s, err := traffic.DialTCP(ctx, netip.Addr{}, netip.AddrPortFrom(to, port))
	if err != nil {
		return err
	}
	got, err := send(s)
	if err == nil {
		r.Bytes, r.Gbits = got.Bytes, got.BitsPerSecond()/1e9
	}
	return err
}

func flow(ctx context.Context, to netip.Addr, r *Result) error {
	ended := make(chan error, 1)
	go func() { ended <- beats(ctx, to, r) }()
	var tcp Result
	err := stream(context.Background(), to, &tcp, func(s *traffic.TCPStream) (traffic.TCPResult, error) {
		return s.SendUntil(context.Background(), 2, ctx.Done())
	})
	err = errors.Join(err, <-ended)
	r.Bytes, r.Gbits = tcp.Bytes, tcp.Gbits
	return err
}

// beats sends numbered datagrams until ctx ends and counts what comes back.
func beats(ctx context.Context, to netip.Addr, r *Result) error {
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port)))
	if err != nil {
		return err
	}
	defer c.Close()
	type account struct {
		got map[uint64]bool
		gap time.Duration
	}
	done := make(chan account)
	go func() {
		a, last, buf := account{got: map[uint64]bool{}}, time.Now(), make([]byte, 64)
		for {
			n, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				done <- a
				return
			}
			if err != nil || n != 8 {
				continue // "connection refused" and the like: an echo is missing, no more
			}
			a.got[binary.BigEndian.Uint64(buf)] = true
			a.gap, last = max(a.gap, time.Since(last)), time.Now()
		}
	}()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	sent := uint64(0)
	for ctx.Err() == nil {
		_, _ = c.Write(binary.BigEndian.AppendUint64(nil, sent)) // an error is a datagram lost
		sent++
		<-tick.C
	}
	time.Sleep(linger)
	_ = c.SetReadDeadline(time.Unix(1, 0))
	a := <-done
	r.Sent, r.Lost, r.GapMS = int(sent), int(sent)-len(a.got), a.gap.Milliseconds()
	return nil
}
