// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAlone asserts that a socket whose owner waits unknown to the runtime keeps
// sock's contract, also where nothing comes in the moment that this is for.
func TestAlone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	s, err := takeSock(c.(*net.TCPConn))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if err := s.beAlone(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)

	begun := time.Now()
	if n, err := s.read(buf); n != 0 || !again(err) || time.Since(begun) < pollEvery {
		t.Errorf("silence: %d bytes, %v after %v, want EAGAIN after %v", n, err, time.Since(begun), pollEvery)
	}
	for _, pause := range []time.Duration{0, 20 * aloneWait} {
		time.AfterFunc(pause, func() { _, _ = peer.Write([]byte("hello")) })
		if n, err := s.read(buf); string(buf[:n]) != "hello" || err != nil {
			t.Errorf("after %v: %q, %v", pause, buf[:n], err)
		}
	}

	// Nobody reads: what the buffers hold is taken, then it blocks for a while.
	total := 0
	for err = nil; err == nil && total < 1<<30; {
		var n int
		n, err = s.write(buf)
		total += n
	}
	if !again(err) || total == 0 {
		t.Errorf("into full buffers: %d bytes, then %v, want EAGAIN", total, err)
	}
	got := make([]byte, 1<<16)
	for n := 0; n < total; {
		k, err := peer.Read(got)
		if err != nil {
			t.Fatalf("%d of %d bytes arrived: %v", n, total, err)
		}
		n += k
	}

	time.AfterFunc(20*aloneWait, s.wake)
	if n, err := s.read(buf); n != 0 || err != nil {
		t.Errorf("woken: %d bytes, %v, want the end of the stream", n, err)
	}
	peer.Close()
	for err = nil; err == nil; { // a reset may take a moment
		_, err = s.write(buf)
	}
	if err != unix.EPIPE && err != unix.ECONNRESET {
		t.Errorf("to a peer that is gone: %v", err)
	}
}
