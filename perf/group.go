// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// Unpaced TCP streams are moved by threads that wait with poll(2) and then write
// or read without waiting, as iperf3 does with select(2). A thread that waits in
// read(2) is woken for every bit that arrives, and each time the runtime hands its
// processor on: on one processor that cost a quarter of the throughput.
//
// Streams share such threads when there are more of them than processors to
// spare: with two processors one thread that serves four sockets moves almost
// twice what four threads do that take turns. Half of the processors are left to
// the kernel's part of the work.

// turns is how many blocks go to a ready stream before the others are looked at.
const turns = 10

// shares splits streams into as many parts as there should be threads.
func shares(ss []*stream) [][]*stream {
	n := min(len(ss), max(1, runtime.NumCPU()/2))
	out := make([][]*stream, n)
	for i, s := range ss {
		out[i%n] = append(out[i%n], s)
	}
	return out
}

// poller waits for several streams.
type poller struct {
	streams   []*stream
	fds       []unix.PollFd
	dedicated bool // see ClientConfig.Dedicated
}

// newPoller makes the streams' sockets non-blocking, as none of them may hold up
// the others.
func (f *flow) newPoller(ss []*stream, events int16) (*poller, error) {
	p := &poller{streams: ss, dedicated: f.dedicated}
	for _, s := range ss {
		if err := unix.SetNonblock(s.sock.fd, true); err != nil {
			return nil, fmt.Errorf("stream %d: %w", s.id, err)
		}
		p.fds = append(p.fds, unix.PollFd{Fd: int32(s.sock.fd), Events: events})
	}
	return p, nil
}

// each calls serve for every stream that is ready, after waiting for one, at
// most pollEvery.
func (p *poller) each(serve func(i int, s *stream) error) error {
	n, err := 0, error(nil)
	if p.dedicated {
		n, err = pollAlone(p.fds)
	}
	if n == 0 && err == nil {
		n, err = unix.Poll(p.fds, int(pollEvery.Milliseconds()))
	}
	if err != nil && err != unix.EINTR {
		return fmt.Errorf("waiting for streams: %w", err)
	}
	if n <= 0 {
		return nil
	}
	for i, s := range p.streams {
		if p.fds[i].Revents == 0 {
			continue
		}
		if err := serve(i, s); err != nil {
			return fmt.Errorf("stream %d: %w", s.id, err)
		}
	}
	return nil
}

// sendShared is sendTCP for one or several streams, without a pace.
func (f *flow) sendShared(ss []*stream, block []byte) error {
	p, err := f.newPoller(ss, unix.POLLOUT)
	if err != nil {
		return err
	}
	rest := make([]int, len(ss)) // of each stream's current block
	for f.sending() && !f.over.Load() {
		err := p.each(func(i int, s *stream) error {
			for range turns {
				if rest[i] == 0 {
					if rest[i] = f.room(len(block)); rest[i] == 0 {
						return nil
					}
				}
				n, err := s.sock.writeNow(block[:rest[i]])
				rest[i] -= n
				s.n.bytes.Add(int64(n))
				f.moved(n)
				if again(err) || err == nil && rest[i] > 0 {
					return nil // full
				}
				if err != nil {
					return fmt.Errorf("sending to %v: %w", s.sock.remote, err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// recvShared is recvTCP for one or several streams. Each ready one is read once a turn,
// which takes up to a whole buffer.
func (f *flow) recvShared(ss []*stream, buf []byte) error {
	p, err := f.newPoller(ss, unix.POLLIN)
	if err != nil {
		return err
	}
	for !f.stopRecv.Load() {
		err := p.each(func(_ int, s *stream) error {
			n, err := s.sock.readNow(buf)
			return f.received(s, n, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
