// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

// TransferResult is one TCP stream, hashed at both ends.
type TransferResult struct {
	Bytes    int64         `json:"bytes"`
	Duration time.Duration `json:"duration_ns"`
	Sent     string        `json:"sha256_sent"`
	Received string        `json:"sha256_received"`
}

// BitsPerSecond is the speed of the stream, with hashing at both ends in it.
func (r TransferResult) BitsPerSecond() float64 {
	if r.Duration <= 0 {
		return 0
	}
	return float64(r.Bytes) * 8 / r.Duration.Seconds()
}

func (r TransferResult) String() string {
	return fmt.Sprintf("%d MiB in %.1f s, %.2f Gbit/s, sha256 %.12s… at both ends",
		r.Bytes>>20, r.Duration.Seconds(), r.BitsPerSecond()/1e9, r.Received)
}

// listen opens a TCP listener at p.
func listen(p place, a netip.AddrPort) (net.Listener, error) {
	var l net.Listener
	err := p.Do(func() (err error) {
		l, err = net.Listen("tcp4", a.String())
		return err
	})
	return l, err
}

// dialTimeout is long enough for two lost SYNs.
const dialTimeout = 5 * time.Second

// dial connects from p. The address is a literal, so that the socket is made on
// the calling thread, which is the one inside the namespace.
func dial(ctx context.Context, p place, to netip.AddrPort) (net.Conn, error) {
	var c net.Conn
	err := p.Do(func() (err error) {
		c, err = (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp4", to.String())
		return err
	})
	return c, err
}

// transfer sends from one place to an address at another until limit bytes or
// the time budget are used up, whichever is first. The ends share nothing but
// the stream; their hashes are compared afterwards.
func transfer(ctx context.Context, from, to place, at netip.AddrPort, limit int64, budget time.Duration) (TransferResult, error) {
	var r TransferResult
	l, err := listen(to, at)
	if err != nil {
		return r, err
	}
	defer l.Close()

	type end struct {
		sum   string
		bytes int64
		err   error
	}
	received := make(chan end, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			received <- end{err: err}
			return
		}
		defer conn.Close()
		defer closeOnCancel(ctx, conn)()
		h := sha256.New()
		n, err := io.CopyBuffer(h, readerOnly{conn}, make([]byte, 1<<20))
		received <- end{hex.EncodeToString(h.Sum(nil)), n, err}
	}()

	conn, err := dial(ctx, from, at)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	defer closeOnCancel(ctx, conn)()
	start := time.Now()
	sum, sent, err := send(conn, limit, start.Add(budget))
	if err != nil {
		return r, fmt.Errorf("sending, after %d bytes: %w", sent, err)
	}
	// The end of the stream tells the receiver that this was all. A tunnel that
	// died under the stream must not hold up the demonstration for ever.
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return r, err
	}
	select {
	case got := <-received:
		if got.err != nil {
			return r, fmt.Errorf("receiving, after %d of %d bytes: %w", got.bytes, sent, got.err)
		}
		r = TransferResult{Bytes: got.bytes, Duration: time.Since(start), Sent: sum, Received: got.sum}
	case <-time.After(budget + 10*time.Second):
		return r, fmt.Errorf("the receiver did not get the end of %d bytes", sent)
	case <-ctx.Done():
		return r, ctx.Err()
	}
	if r.Sent != r.Received || r.Bytes != sent {
		return r, fmt.Errorf("sent %d bytes with sha256 %s, received %d with %s", sent, r.Sent, r.Bytes, r.Received)
	}
	return r, nil
}

// send writes blocks that all differ: each carries its number, so that a block
// lost, repeated or moved changes the hash.
func send(w interface {
	io.Writer
	SetWriteDeadline(time.Time) error
}, limit int64, until time.Time) (sum string, sent int64, err error) {
	block := make([]byte, 1<<18)
	for i := 0; i < len(block); i += 8 {
		binary.NativeEndian.PutUint64(block[i:], rand.Uint64())
	}
	if err := w.SetWriteDeadline(until.Add(10 * time.Second)); err != nil {
		return "", 0, err
	}
	h := sha256.New()
	for number := uint64(0); sent < limit && time.Now().Before(until); number++ {
		binary.BigEndian.PutUint64(block, number)
		b := block[:min(int64(len(block)), limit-sent)]
		h.Write(b)
		n, err := w.Write(b)
		sent += int64(n)
		if err != nil {
			return "", sent, err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), sent, nil
}

// seenFrom asks a server at an outside place from which address it is reached:
// the server answers each connection with its peer's address.
func seenFrom(ctx context.Context, from, outside place, at netip.AddrPort) (netip.Addr, error) {
	l, err := listen(outside, at)
	if err != nil {
		return netip.Addr{}, err
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, conn.RemoteAddr().String())
	}()
	conn, err := dial(ctx, from, at)
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	defer closeOnCancel(ctx, conn)()
	if err := conn.SetReadDeadline(time.Now().Add(dialTimeout)); err != nil {
		return netip.Addr{}, err
	}
	said, err := io.ReadAll(conn)
	if err != nil {
		return netip.Addr{}, err
	}
	peer, err := netip.ParseAddrPort(string(said))
	return peer.Addr(), err
}

// closeOnCancel closes c when ctx ends; the function returned calls that off.
func closeOnCancel(ctx context.Context, c io.Closer) func() bool {
	return context.AfterFunc(ctx, func() { c.Close() })
}

// readerOnly hides a connection's other methods, so that io.CopyBuffer uses the
// buffer it is given.
type readerOnly struct{ io.Reader }
