// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// tcpBuffer is how much one read or write moves.
const tcpBuffer = 256 << 10

// TCPSink receives streams and answers each with the SHA-256 of its content.
type TCPSink struct {
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// ListenTCP opens a sink on the address; port 0 chooses one.
func ListenTCP(addr netip.AddrPort) (*TCPSink, error) {
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		return nil, fmt.Errorf("traffic: %w", err)
	}
	s := &TCPSink{l: l, conns: map[net.Conn]struct{}{}}
	s.wg.Add(1)
	go s.accept()
	return s, nil
}

// Addr is where the sink listens.
func (s *TCPSink) Addr() netip.AddrPort { return s.l.Addr().(*net.TCPAddr).AddrPort() }

// Close ends the sink and the streams under way.
func (s *TCPSink) Close() error {
	err := s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

func (s *TCPSink) accept() {
	defer s.wg.Done()
	for {
		c, err := s.l.Accept()
		if err != nil {
			return // closed
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			s.drain(c)
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			c.Close()
		}()
	}
}

// drain hashes a stream up to its end and answers. A stream that breaks gets no
// answer, which its sender reports.
func (s *TCPSink) drain(c net.Conn) {
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{c}, make([]byte, tcpBuffer)); err != nil {
		return
	}
	_, _ = c.Write(h.Sum(nil)) // the sender reports a missing answer
}

// TCPResult is a finished stream.
type TCPResult struct {
	Bytes   int64
	Elapsed time.Duration // from the first byte sent to the answer
}

// BitsPerSecond is the payload rate.
func (r TCPResult) BitsPerSecond() float64 {
	return float64(r.Bytes) * 8 / r.Elapsed.Seconds()
}

// TCPStream is an open stream to a sink.
type TCPStream struct{ c *net.TCPConn }

// DialTCP opens a stream to a sink. The address to send from may be zero.
func DialTCP(ctx context.Context, from netip.Addr, to netip.AddrPort) (*TCPStream, error) {
	var d net.Dialer
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, fmt.Errorf("traffic: %w", err)
	}
	return &TCPStream{c.(*net.TCPConn)}, nil
}

// Send sends n bytes of the seed's stream, waits for the sink's answer and
// compares it. It fails when the content that arrived differs. The stream is
// closed in any case.
func (t *TCPStream) Send(ctx context.Context, seed uint64, n int64) (TCPResult, error) {
	return t.send(ctx, func(sent int64) bool { return sent < n }, n, seed)
}

// SendUntil is Send for as long as a channel stays open.
func (t *TCPStream) SendUntil(ctx context.Context, seed uint64, stop <-chan struct{}) (TCPResult, error) {
	return t.send(ctx, func(int64) bool {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}, -1, seed)
}

// Close ends a stream that is not going to be sent.
func (t *TCPStream) Close() error { return t.c.Close() }

func (t *TCPStream) send(ctx context.Context, more func(sent int64) bool, n int64, seed uint64) (TCPResult, error) {
	defer t.c.Close()
	unblock := context.AfterFunc(ctx, func() { _ = t.c.SetDeadline(time.Unix(1, 0)) })
	defer unblock()
	start := time.Now()
	var r TCPResult
	src, h, buf := NewSource(seed), sha256.New(), make([]byte, tcpBuffer)
	for more(r.Bytes) {
		b := buf
		if n >= 0 {
			b = buf[:min(int64(len(buf)), n-r.Bytes)]
		}
		_, _ = src.Read(b) // never fails
		h.Write(b)
		c, err := t.c.Write(b)
		r.Bytes += int64(c)
		if err != nil {
			return r, fmt.Errorf("traffic: after %d bytes: %w", r.Bytes, errors.Join(ctx.Err(), err))
		}
	}
	if err := t.c.CloseWrite(); err != nil {
		return r, fmt.Errorf("traffic: after %d bytes: %w", r.Bytes, err)
	}
	var got [sha256.Size]byte
	if _, err := io.ReadFull(t.c, got[:]); err != nil {
		return r, fmt.Errorf("traffic: no answer after %d bytes: %w", r.Bytes, errors.Join(ctx.Err(), err))
	}
	r.Elapsed = time.Since(start)
	if want := h.Sum(nil); string(want) != string(got[:]) {
		return r, fmt.Errorf("traffic: content differs after %d bytes: sent SHA-256 %x, arrived %x", r.Bytes, want, got)
	}
	return r, nil
}
