// SPDX-License-Identifier: Apache-2.0

// Package netstack is an end of a tunnel inside the program: a tun.Device whose
// other side is gVisor's TCP/IP stack. It gives Go programs net.Conn,
// net.Listener and net.PacketConn into the overlay, without an interface in the
// kernel, without privileges and on every platform.
//
//	Dial, Listen --> gVisor: TCP, UDP, IP, ARP, neighbour discovery
//	                    |  Ethernet frames, TCP as super-frames
//	                    v
//	                  Queue.Read, Queue.Write <--> engine
//
// TCP leaves as super-frames of up to 62,000 bytes and may come merged; the
// engine cuts and merges them. On two cores one stream was five times as fast as
// with single frames (11 against 2 Gbit/s, both ends in one process).
//
// A Device is closed by whoever owns it, the engine if it was added to one.
// Everything that was opened on it then fails with net.ErrClosed, and the
// stack's goroutines end before Close returns.
package netstack
