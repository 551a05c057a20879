// SPDX-License-Identifier: Apache-2.0

package l3

import "sync/atomic"

// A Drop is the reason for which a frame or packet went no further. Its String
// is the name under which Stats counts it.
type Drop uint8

// Reasons. "In" is from the tunnel, "out" is from the kernel.
const (
	DropFrameShort  Drop = iota // in: no whole Ethernet header
	DropOtherMAC                // in: for another station, or a group that IP does not use
	DropProtocol                // in: neither IP nor ARP, or with a VLAN tag
	DropIPInvalid               // in: version or lengths do not fit
	DropTooLong                 // in: longer than an IP packet can be
	DropSuperFrame              // in: a super-frame, which this device does not take
	DropBadOffload              // in: a checksum to finish outside the frame
	DropARPInvalid              // in: not ARP for IPv4 on Ethernet, or addresses that cannot be
	DropNDInvalid               // in: fails the checks of RFC 4861 section 7.1
	DropRouterND                // in: router discovery and redirects, which are not heeded
	DropNotAsked                // in: a request for an address that is not ours
	DropUnsolicited             // in: an answer or announcement nobody waited for
	DropConflict                // in: somebody else uses one of our addresses
	DropReplyFull               // in: too many answers of ours wait to be sent
	DropWriteFailed             // in: the kernel did not take it
	DropPacket                  // out: not an IP packet that can be addressed
	DropNoRoute                 // out: no next hop
	DropWaitFull                // out: too much waits for neighbours
	DropUnresolved              // out: the neighbour did not answer
	DropTableFull               // out: waited for a neighbour that others pushed out
	DropReadFailed              // out: could not be read from the kernel
	numDrops
)

var dropNames = [numDrops]string{
	DropFrameShort:  "frame_short",
	DropOtherMAC:    "other_mac",
	DropProtocol:    "protocol",
	DropIPInvalid:   "ip_invalid",
	DropTooLong:     "too_long",
	DropSuperFrame:  "super_frame",
	DropBadOffload:  "bad_offload",
	DropARPInvalid:  "arp_invalid",
	DropNDInvalid:   "nd_invalid",
	DropRouterND:    "nd_router",
	DropNotAsked:    "request_for_others",
	DropUnsolicited: "unsolicited",
	DropConflict:    "address_conflict",
	DropReplyFull:   "reply_queue_full",
	DropWriteFailed: "write_failed",
	DropPacket:      "packet_invalid",
	DropNoRoute:     "no_next_hop",
	DropWaitFull:    "wait_queue_full",
	DropUnresolved:  "unresolved",
	DropTableFull:   "table_full",
	DropReadFailed:  "read_failed",
}

// String returns the reason's name, such as "unresolved".
func (d Drop) String() string {
	if d < numDrops {
		return dropNames[d]
	}
	return "unknown"
}

// Stats is a snapshot of a Device.
type Stats struct {
	Neighbours int `json:"neighbours"` // in the table
	Asking     int `json:"asking"`     // of them, those that a request is out for
	Waiting    int `json:"waiting"`    // packets that wait for a neighbour
	// Requests and Replies count what the device itself sent.
	Requests uint64 `json:"requests"`
	Replies  uint64 `json:"replies"`
	// Drops counts what went no further, by reason (see Drop).
	Drops map[string]uint64 `json:"drops,omitempty"`
}

type counters struct {
	drops             [numDrops]atomic.Uint64
	requests, replies atomic.Uint64
}

func (c *counters) drop(d Drop, n int) { c.drops[d].Add(uint64(n)) }

// lost reports whether what is counted under d was a loss, and not traffic of
// others or chatter that nobody waits for.
func (d Drop) lost() bool {
	switch d {
	case DropOtherMAC, DropRouterND, DropNotAsked, DropUnsolicited:
		return false
	}
	return true
}
