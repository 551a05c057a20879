// SPDX-License-Identifier: Apache-2.0

// Package l3 makes an Ethernet device (tun.Device) of a layer-3 TUN interface,
// for an end of a tunnel that routes and needs no bridge. The kernel gives and
// takes IP packets; the package speaks the missing layer 2 itself.
//
//	kernel -- IP packets --> source --> neighbour? --> Ethernet header --> Queue.Read
//	                                       |  unknown
//	                                       +--> waits, request goes to Queue.Read
//	kernel <-- IP packets -- wireguard's GRO <-- header checked, stripped <-- Queue.Write
//	                                       |  ARP, neighbour discovery
//	                                       +--> answered or learned from
//
// The interface is that of golang.zx2c4.com/wireguard/tun, which exists on
// Linux, macOS, the BSDs and Windows. On Linux it cuts the super-frames that it
// reads and merges what it writes, so this Device offers no offloads.
//
// # What it knows of its neighbours
//
// A neighbour's MAC address is learned from an answer to a request of ours and
// from a request that is addressed to us, never from announcements: one that
// contradicts what is known makes us ask everybody. Requests are sent three times,
// one second apart. What was confirmed within 30 seconds is used as it is; what
// is older is used and, when used, asked again, first by unicast. Without an
// answer it is forgotten. When an address does not resolve, the packets that
// waited are answered with ICMP "address unreachable", so that a program's
// connect fails at once (RFC 1122 section 2.3.2, RFC 4861 section 7.3.3). The
// table, the packets waiting for one neighbour and all of them are bounded.
//
// # Who owns what
//
// Whoever reads the Queue owns the batch of packets that it is in the middle
// of. Buffers for batches come from a pool that all devices share and are only
// held while there is something in them, so an idle device has none: on Linux
// the reader waits for the descriptor to be readable, elsewhere a goroutine
// reads into a few small batches of the device's own. One mutex guards the
// neighbour table and the frames that the package itself wants to send; it is
// taken once for a batch on the way out, and on the way in only for ARP and
// neighbour discovery.
//
// The order of packets to one neighbour is kept, also of those that waited:
// they are released under the mutex into a list that Read empties first.
package l3
