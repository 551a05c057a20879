// SPDX-License-Identifier: Apache-2.0

package encap

import "encoding/binary"

// ECN is the two low bits of TOS or traffic class (RFC 3168 section 5).
type ECN uint8

// The four codepoints.
const (
	NotECT ECN = 0
	ECT1   ECN = 1
	ECT0   ECN = 2
	CE     ECN = 3
)

// TOS returns the TOS (IPv4) or traffic class (IPv6) of the IP packet in an
// inner frame, and whether there is one.
func TOS(frame []byte) (tos uint8, ok bool) {
	l3, et, ok := networkHeader(frame)
	if !ok {
		return 0, false
	}
	switch {
	case et == etherIPv4 && len(frame) >= l3+20 && frame[l3]>>4 == 4:
		return frame[l3+1], true
	case et == etherIPv6 && len(frame) >= l3+40 && frame[l3]>>4 == 6:
		return uint8(binary.BigEndian.Uint16(frame[l3:]) >> 4), true
	}
	return 0, false
}

// Decapsulate combines the outer ECN with the inner frame's, in place, as
// RFC 6040 section 4.2 says, and reports whether the frame may be delivered:
// congestion experienced outside, on a sender that does not know ECN, can only
// be told by dropping. The kernel does the same (include/net/inet_ecn.h,
// INET_ECN_decapsulate).
func (outer ECN) Decapsulate(frame []byte) bool {
	outer &= 3
	if outer != CE && outer != ECT1 {
		return true
	}
	l3, et, ok := networkHeader(frame)
	if !ok {
		return true
	}
	switch {
	case et == etherIPv4 && len(frame) >= l3+20 && frame[l3]>>4 == 4:
		result, deliver := outer.onto(ECN(frame[l3+1] & 3))
		if result == ECN(frame[l3+1]&3) {
			return deliver
		}
		// RFC 1624: HC' = ~(~HC + ~m + m'), over the word that holds TOS.
		old := binary.BigEndian.Uint16(frame[l3:])
		frame[l3+1] = frame[l3+1]&^3 | uint8(result)
		hc := binary.BigEndian.Uint16(frame[l3+10:])
		sum := add16(sub16(^hc, old), binary.BigEndian.Uint16(frame[l3:]))
		binary.BigEndian.PutUint16(frame[l3+10:], ^sum)
	case et == etherIPv6 && len(frame) >= l3+40 && frame[l3]>>4 == 6:
		result, deliver := outer.onto(ECN(frame[l3+1] >> 4 & 3))
		if !deliver {
			return false
		}
		frame[l3+1] = frame[l3+1]&^0x30 | uint8(result)<<4
	}
	return true
}

// onto is what an inner field becomes below outer, which is CE or ECT(1).
func (outer ECN) onto(inner ECN) (result ECN, deliver bool) {
	switch {
	case outer == CE && inner == NotECT:
		return inner, false
	case outer == CE, inner == ECT0:
		return outer, true
	}
	return inner, true
}
