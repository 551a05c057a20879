// SPDX-License-Identifier: Apache-2.0

package engine

import "sync/atomic"

// A Drop is the reason for which a frame was not carried. Its String is the
// name under which it is counted everywhere.
type Drop uint8

// Reasons. The first group belongs to no tunnel and is counted by the engine,
// the others by the tunnel.
const (
	DropTruncated      Drop = iota // received: longer than any datagram can be
	DropHeaderShort                // received: fewer than 8 bytes
	DropHeaderNoVNI                // received: I flag missing
	DropHeaderReserved             // received: reserved bits set
	DropUnknownVNI                 // received: no tunnel has this VNI

	DropFrameShort      // received or from the device: no whole Ethernet header
	DropWrongPeer       // received: outer source is not the peer of this VNI
	DropOwnMAC          // received: inner source is our own device; a loop
	DropMulticastSource // received: inner source MAC is a group address
	DropSpoofedSource   // received: inner source address is not the peer's to use
	DropECN             // received: congestion outside, and an inner packet that cannot say so
	DropDeviceFull      // received: the device took no more
	DropDeviceDown      // received: the device is down
	DropDeviceGone      // received: the device was deleted
	DropDeviceRefused   // received: the device refused the frame
	DropBadOffload      // from the device: described in a way its bytes contradict
	DropTooLong         // sent: larger than the underlay takes; an IP sender was told
	DropLoop            // from the device: one of our own datagrams, so the route to the peer leads into the tunnel
	DropNoRoute         // sent: no route to the peer, or no neighbour
	DropSocketFull      // sent: the socket's buffer stayed full
	DropSendRefused     // sent: the kernel refused for another reason (a firewall, say)
	numDrops
)

var dropNames = [numDrops]string{
	DropTruncated:       "truncated",
	DropHeaderShort:     "header_short",
	DropHeaderNoVNI:     "header_no_vni",
	DropHeaderReserved:  "header_reserved",
	DropUnknownVNI:      "unknown_vni",
	DropFrameShort:      "frame_short",
	DropWrongPeer:       "wrong_peer",
	DropOwnMAC:          "own_mac",
	DropMulticastSource: "multicast_source",
	DropSpoofedSource:   "spoofed_source",
	DropECN:             "ecn",
	DropDeviceFull:      "device_full",
	DropDeviceDown:      "device_down",
	DropDeviceGone:      "device_gone",
	DropDeviceRefused:   "device_refused",
	DropBadOffload:      "bad_offload",
	DropTooLong:         "too_long",
	DropLoop:            "loop",
	DropNoRoute:         "no_route",
	DropSocketFull:      "socket_full",
	DropSendRefused:     "send_refused",
}

// String returns the reason's name, such as "unknown_vni".
func (d Drop) String() string {
	if d < numDrops {
		return dropNames[d]
	}
	return "unknown"
}

// dropCounters counts by reason.
type dropCounters [numDrops]atomic.Uint64

func (c *dropCounters) add(d Drop, n int) { c[d].Add(uint64(n)) }

// nonZero returns the counters that have counted anything, by name.
func (c *dropCounters) nonZero() map[string]uint64 {
	m := map[string]uint64{}
	for d := range numDrops {
		if n := c[d].Load(); n != 0 {
			m[d.String()] = n
		}
	}
	return m
}
