// SPDX-License-Identifier: Apache-2.0

// Package encap is the bytes of the overlay and nothing else: the VXLAN
// header (RFC 7348), views of inner Ethernet frames, the Internet checksum,
// cutting one super-frame into datagrams, merging datagrams into super-frames,
// ECN across the tunnel (RFC 6040) and the flow hash that picks an outer
// source port.
//
// It does no I/O, starts no goroutine and allocates nothing per packet. Slices
// handed in are borrowed for the call, unless a method says that its result
// refers to them.
//
// The life of a super-frame on its way out, with what each layer adds:
//
//	 8 bytes      14    20    20+   up to 64 KiB
//	+-----------+-----+-----+-----+----------------------------------+
//	|  room for | Eth | IP  | TCP | payload 0 | payload 1 | ...      |   read from the device
//	|  VXLAN    |     |     |     |           |           |          |
//	+-----------+-----+-----+-----+-----------+-----------+----------+
//	                     |                  |           |
//	                     | header, changed  | copied and summed in one pass
//	                     v                  v           |
//	+-----------------------------------+-----------+  +---------------------------+
//	| VXLAN | Eth | IP | TCP |          | payload 0 |  | VXLAN | ... | payload 1   |   sent by one call
//	+-----------------------------------+-----------+  +---------------------------+
//
// On the way in, Merger does the reverse: the first datagram's header is
// rewritten in place and the payloads of the others are referred to.
package encap
