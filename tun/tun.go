// SPDX-License-Identifier: Apache-2.0

// Package tun is Ethernet frame devices behind one narrow batch interface: a
// kernel TAP, multi-queue and with segmentation offloads, and in tun/tuntest a
// device in memory. It knows nothing of VXLAN.
//
// Why reading is two calls. With hundreds of devices in a process, most of
// them idle, a buffer for each would be memory for nothing. So a reader first
// waits, holding no buffer, and only when frames are there borrows one from a
// pool that all devices share:
//
//	for {
//		if err := q.Wait(); err != nil { ... }
//		buf := pool.Get()
//		n, err := q.Read(buf, frames)
//		...
//		pool.Put(buf)
//	}
package tun

import (
	"errors"
	"net"

	"kohaku/encap"
)

// Headroom is how many bytes of every Frame.Buf precede the frame. The caller
// may overwrite them. It is the length of virtio's net header, which the
// kernel puts there, and aligns the inner IP header to four bytes.
const Headroom = 10

// MaxFrame is the longest frame that a device passes: a 64 KiB IP packet, its
// Ethernet header and two VLAN tags.
const MaxFrame = 65535 + 14 + 8

// MinArena is the least arena that Read takes.
const MinArena = Headroom + MaxFrame

// A Frame is one frame read from a device, or one super-frame.
type Frame struct {
	Buf     []byte // Headroom bytes, then the frame
	Offload encap.Offload
}

// Data is the frame itself.
func (f *Frame) Data() []byte { return f.Buf[Headroom:] }

// A Device is a network interface that passes Ethernet frames to its queues
// and takes frames from them.
type Device interface {
	// Name is the interface's name.
	Name() string
	// Queues returns the device's queues, at least one, the same on each call.
	// Frames of one flow arrive on one queue.
	Queues() []Queue
	// HardwareAddr is the device's own MAC address.
	HardwareAddr() [6]byte
	// Offloads returns what the device turned out to be capable of.
	Offloads() Offloads
	// Close detaches from the device. Waiting readers return net.ErrClosed.
	// It is safe to call twice and concurrently with all else.
	Close() error
}

// A Queue is one path of a Device in and out. Wait and Read belong to one
// goroutine; Write may be called by any, also while another reads.
type Queue interface {
	// Wait blocks until a frame can probably be read, the device fails or it
	// is closed. It returns nil, or an error that wraps net.ErrClosed.
	Wait() error
	// Read reads as many frames as are queued and fit into frames and arena,
	// without blocking; 0 and no error means that none is queued. It may stop
	// early, so a caller that wants all calls again until it gets 0. The
	// frames' bytes lie in arena, which must hold MinArena bytes, and are the
	// caller's to modify. An error means that the device is gone: it wraps
	// net.ErrClosed after Close, else ErrGone.
	Read(arena []byte, frames []Frame) (n int, err error)
	// Write passes frames in order, without blocking. It returns how many
	// were taken; when that is less than len(frames), err says what was wrong
	// with frames[n] (a *WriteError, or an error wrapping net.ErrClosed or
	// ErrGone), and the caller may go on behind it.
	Write(frames []encap.Run) (n int, err error)
}

// A Pollable is a Queue on a descriptor, so that a caller can wait for many
// queues at once, with epoll(7), instead of calling Wait.
type Pollable interface {
	Queue
	// Descriptor becomes readable when Read would return frames or an error.
	// It is the queue's: not to be closed or read, and not to be used once the
	// device's Close was called.
	Descriptor() int
}

// Offloads says which super-frames a device passes in and takes.
type Offloads struct {
	TSO bool // TCP over IPv4 and IPv6
	USO bool // UDP over IPv4 and IPv6 (Linux 6.2 and newer)
}

// ErrGone means that the device itself has vanished: somebody deleted it, or
// detached the queue.
var ErrGone = errors.New("the device is gone")

// ErrClosed is net.ErrClosed, which tells that Close was called.
var ErrClosed = net.ErrClosed

// A WriteError is the kernel's refusal of one frame. Errors.Is sees the errno.
type WriteError struct {
	Device string
	Super  bool // the frame was a super-frame
	Err    error
}

func (e *WriteError) Error() string {
	kind := "frame"
	if e.Super {
		kind = "super-frame"
	}
	return "write " + kind + " to " + e.Device + ": " + e.Err.Error()
}

func (e *WriteError) Unwrap() error { return e.Err }
