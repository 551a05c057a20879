// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"
)

// newSource waits for the TUN's descriptor if it has one that can be waited
// for, and has a goroutine read ahead otherwise.
func newSource(r reader, dev wgtun.Device) source {
	if f := dev.File(); f != nil && f.SetReadDeadline(time.Time{}) == nil {
		if rc, err := f.SyscallConn(); err == nil {
			s := &polled{reader: r, file: f, rc: rc}
			s.bind()
			return s
		}
	}
	return newPump(r, dev.BatchSize())
}

// polled is the source that holds no buffer, and needs no goroutine, while the
// device is idle. The descriptor is in non-blocking mode and known to Go's
// poller; wireguard's Read would wait there too, but with buffers in its hands.
type polled struct {
	reader
	file *os.File
	rc   syscall.RawConn

	// The closures are made once, since one made per call would be an
	// allocation per call.
	waited bool
	ready  bool // known to be readable
	waitFn func(uintptr) bool
	pollFn func(uintptr)
}

func (s *polled) bind() {
	s.waitFn = func(fd uintptr) bool {
		if !s.waited {
			// Readiness that came before this call was forgotten when the call
			// began, so it has to be asked for once.
			s.waited = true
			s.ready = readable(int(fd))
			return s.ready
		}
		s.ready = true
		return true
	}
	s.pollFn = func(fd uintptr) { s.ready = readable(int(fd)) }
}

// readable is poll(2) for input, without waiting. Errors and hang-ups count as
// readable: the read that follows tells what they are.
func readable(fd int) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(p[:], 0)
		if err != unix.EINTR {
			return err == nil && n > 0
		}
	}
}

func (s *polled) wait() {
	if s.ready {
		return
	}
	s.waited = false
	// The other errors come of Close; read finds that out.
	if err := s.rc.Read(s.waitFn); errors.Is(err, os.ErrDeadlineExceeded) {
		s.rearm()
	}
}

// kick uses the read deadline, which wakes who waits and is remembered for who
// comes to wait. It may also hit a read, which then returns before it has read.
func (s *polled) kick() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) }

// rearm is called by the reader before it looks at what it was kicked for.
func (s *polled) rearm() { _ = s.file.SetReadDeadline(time.Time{}) }

func (s *polled) read() (*batch, error) {
	for {
		if !s.ready {
			if err := s.rc.Control(s.pollFn); err != nil {
				if s.closed.Load() {
					err = net.ErrClosed
				}
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			if !s.ready {
				return nil, nil
			}
		}
		s.ready = false
		b := fullBatches.get()
		err := s.reader.read(b)
		if b.n > 0 {
			return b, nil
		}
		fullBatches.put(b)
		if err != nil {
			return nil, err
		}
		// Either kicked, or a packet that is of no use.
		s.rearm()
	}
}

func (s *polled) release(b *batch) { fullBatches.put(b) }
func (s *polled) close()           {}
