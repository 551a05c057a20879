// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"sync/atomic"
	"time"
)

// Stages say how well the engine batches: what one system call moves is what
// decides its speed. All count since the engine was made.
type Stages struct {
	Reads        uint64 `json:"reads"`         // visits to device queues that found frames
	FramesRead   uint64 `json:"frames_read"`   // a super-frame is one
	Sends        uint64 `json:"sends"`         // system calls
	Sent         uint64 `json:"sent"`          // datagrams in them
	SendsBlocked uint64 `json:"sends_blocked"` // met a full socket buffer
	BlockedTime  uint64 `json:"blocked_ns"`    // spent waiting then, nanoseconds
	Receives     uint64 `json:"receives"`      // system calls that found messages
	Messages     uint64 `json:"messages"`      // in them; with UDP_GRO one may be many datagrams
	Received     uint64 `json:"received"`      // datagrams
	Writes       uint64 `json:"writes"`        // system calls to devices
	Written      uint64 `json:"written"`       // frames in them, merged ones counted each
	Waits        uint64 `json:"waits"`         // times that a worker looked for something to do
	Lingered     uint64 `json:"lingered"`      // times that it found it by looking on for a moment instead of sleeping
	Bytes        uint64 `json:"bytes"`         // inner frames, both ways
}

// stages counts for one worker, which alone adds to it, so that counting costs
// no traffic between processors.
type stages struct {
	reads, framesRead            atomic.Uint64
	sends, sent                  atomic.Uint64
	sendsBlocked, blocked        atomic.Uint64
	receives, messages, received atomic.Uint64
	writes, written              atomic.Uint64
	waits, lingered, bytes       atomic.Uint64
}

func (s *stages) addTo(t *Stages) {
	t.Reads += s.reads.Load()
	t.FramesRead += s.framesRead.Load()
	t.Sends += s.sends.Load()
	t.Sent += s.sent.Load()
	t.SendsBlocked += s.sendsBlocked.Load()
	t.BlockedTime += s.blocked.Load()
	t.Receives += s.receives.Load()
	t.Messages += s.messages.Load()
	t.Received += s.received.Load()
	t.Writes += s.writes.Load()
	t.Written += s.written.Load()
	t.Waits += s.waits.Load()
	t.Lingered += s.lingered.Load()
	t.Bytes += s.bytes.Load()
}

func (s *stages) noteBlocked(since time.Time) {
	s.sendsBlocked.Add(1)
	s.blocked.Add(uint64(time.Since(since)))
}
