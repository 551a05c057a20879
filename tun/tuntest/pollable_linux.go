// SPDX-License-Identifier: Apache-2.0

package tuntest

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// pollable is a queue with an eventfd that is readable while frames, or the
// device's end, are there to be read.
type pollable struct {
	*queue
	fd int
}

func newPollable(q *queue) *pollable {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		panic(os.NewSyscallError("eventfd", err))
	}
	p := &pollable{q, fd}
	buf := make([]byte, 8)
	q.signal = func(readable bool) {
		if readable {
			_, _ = unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0})
		} else {
			_, _ = unix.Read(fd, buf)
		}
	}
	// A device may be used after Close, so the descriptor goes with the memory.
	runtime.AddCleanup(p, func(fd int) { unix.Close(fd) }, fd)
	return p
}

// Descriptor implements tun.Pollable.
func (p *pollable) Descriptor() int { return p.fd }
