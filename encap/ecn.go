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
// be told by dropping.
//
// Like the kernel (include/net/inet_ecn.h, __INET_ECN_decapsulate) it leaves
// ECT(0) alone when the outer header says ECT(1): nothing in the network makes
// that change.
func (outer ECN) Decapsulate(frame []byte) bool {
	if outer&3 != CE {
		return true
	}
	l3, et, ok := networkHeader(frame)
	if !ok {
		return true
	}
	switch {
	case et == etherIPv4 && len(frame) >= l3+20 && frame[l3]>>4 == 4:
		switch ECN(frame[l3+1] & 3) {
		case NotECT:
			return false
		case CE:
			return true
		}
		// RFC 1624: HC' = ~(~HC + ~m + m'), over the word that holds TOS.
		old := binary.BigEndian.Uint16(frame[l3:])
		frame[l3+1] |= uint8(CE)
		hc := binary.BigEndian.Uint16(frame[l3+10:])
		sum := add16(sub16(^hc, old), old|uint16(CE))
		binary.BigEndian.PutUint16(frame[l3+10:], ^sum)
	case et == etherIPv6 && len(frame) >= l3+40 && frame[l3]>>4 == 6:
		if ECN(frame[l3+1]>>4&3) == NotECT {
			return false
		}
		frame[l3+1] |= uint8(CE) << 4
	}
	return true
}
