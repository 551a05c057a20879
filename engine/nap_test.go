// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestNap takes a worker's socket off its epoll instance and puts it back, with
// datagrams waiting at every change: none may be forgotten.
func TestNap(t *testing.T) {
	e, err := New(Config{Listen: addrs[:1], Port: freePort(t), Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	// A worker beside the engine's own, which never starts.
	w, err := newWorker(e, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.closeFDs()
	busy, quiet := boundSocket(t), boundSocket(t)
	for _, s := range []*rxSocket{busy, quiet} {
		if err := w.listen(s); err != nil {
			t.Fatal(err)
		}
	}
	events := make([]unix.EpollEvent, 8)
	// poll returns which sockets the worker is told of.
	poll := func(wait func([]unix.EpollEvent) (int, error)) (told []int) {
		t.Helper()
		n, err := wait(events)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events[:n] {
			told = append(told, int(socketEvent-ev.Fd))
		}
		return told
	}
	watched := func(ev []unix.EpollEvent) (int, error) { return epollPoll(w.epoll, ev) }
	want := func(what string, got []int, want ...int) {
		t.Helper()
		if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("%s: told of sockets %v, want %v", what, got, want)
		}
	}

	sendTo(t, busy)
	want("watched", poll(watched), 0)
	busy.came = 1
	w.pace.bulk, w.pace.singles = true, true
	w.keepWatch()
	if w.unwatched != 1 || !busy.unwatched || quiet.unwatched {
		t.Fatalf("%d sockets are not watched (busy %v, quiet %v), want the busy one alone", w.unwatched, busy.unwatched, quiet.unwatched)
	}
	want("not watched", poll(watched))
	want("between naps", poll(w.nap), 0)
	w.rx.serve(busy)
	if busy.came != 1 {
		t.Errorf("%d messages came, want 1", busy.came)
	}
	want("after a nap in vain", poll(w.nap), 0)
	sendTo(t, quiet)
	want("the other one, still watched", poll(watched), 1)
	w.rx.serve(quiet)

	sendTo(t, busy)
	w.pace.idle()
	w.keepWatch()
	if w.unwatched != 0 || busy.unwatched {
		t.Fatalf("%d sockets are not watched after bulk", w.unwatched)
	}
	want("watched again", poll(watched), 0)
}

// boundSocket is a receiving socket of its own on loopback.
func boundSocket(t *testing.T) *rxSocket {
	t.Helper()
	fd, err := udpSocket(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: addrs[0].As4()}); err != nil {
		t.Fatal(err)
	}
	return &rxSocket{fd: fd}
}

func sendTo(t *testing.T, s *rxSocket) {
	t.Helper()
	sendBytes(t, s, []byte{8, 0, 0})
}

func sendBytes(t *testing.T, s *rxSocket, b []byte) {
	t.Helper()
	to, err := unix.Getsockname(s.fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(s.fd, b, 0, to); err != nil {
		t.Fatal(err)
	}
}
