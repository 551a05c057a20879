// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Go's runtime watches calls that block, with a thread that wakes every time one
// returns and, as long as they come, every 70 us: one in five round trips waits
// for it, and the rest for what it does to the scheduler. On the machine this was
// found on a round trip took 48 us so and 33 without. So the one stream of a test
// of round trips waits, for a moment, in a call that the runtime does not know to
// block. It keeps one of GOMAXPROCS for itself meanwhile and cannot be stopped
// for the garbage collector, which is all right for a moment, and in a process
// that does nothing else.

// aloneWait is the moment: answers that take longer do not suffer from the rest.
// The kernel rounds it up to its tick.
const aloneWait = time.Millisecond

// beAlone lets the socket's owner wait so.
func (s *sock) beAlone() error {
	tv := unix.NsecToTimeval(aloneWait.Nanoseconds())
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	s.alone = true
	return nil
}

// setAlone prepares the stream of a test of round trips, where it is the only one
// and the process has the processors for it.
func (m *measurement) setAlone() {
	if !m.dedicated || m.res.Mode() != RoundTrip || len(m.streams) != 1 || m.dial != nil || runtime.GOMAXPROCS(0) < 2 {
		return
	}
	_ = m.streams[0].sock.beAlone() // else it waits as others do
}

// waiting counts the threads of the process that wait in pollAlone.
var waiting atomic.Int32

// pollAlone is poll(2) for aloneWait, unknown to the runtime, unless half of
// GOMAXPROCS wait so already; then it does not wait.
func pollAlone(fds []unix.PollFd) (int, error) {
	defer waiting.Add(-1)
	if int(waiting.Add(1)) > runtime.GOMAXPROCS(0)/2 {
		return 0, nil
	}
	return pollNow(fds, aloneWait)
}

// readAlone is read, for a moment unknown to the runtime, then as everybody does.
func (s *sock) readAlone(b []byte) (int, error) {
	n, err := s.readNow(b)
	if !again(err) {
		return n, err
	}
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, int(pollEvery.Milliseconds())); err != nil && err != unix.EINTR {
		return 0, err
	}
	if fds[0].Revents == 0 {
		return 0, unix.EAGAIN
	}
	return s.readNow(b)
}

// writeAlone is write.
func (s *sock) writeAlone(b []byte) (int, error) {
	n, err := s.sendNow(b)
	if again(err) { // the buffer is full; who waits for that measures no round trips
		err = unix.EINTR
		for err == unix.EINTR {
			n, err = unix.Write(s.fd, b)
		}
	}
	return max(n, 0), err
}
