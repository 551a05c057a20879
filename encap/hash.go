// SPDX-License-Identifier: Apache-2.0

package encap

import "encoding/binary"

// FlowHash hashes what identifies the flow of an inner frame: addresses,
// protocol and, for unfragmented TCP and UDP, ports; MAC addresses and
// EtherType for what is not IP. Frames of one flow have one hash, so that an
// underlay that spreads by outer source port (RFC 7348 section 4) keeps their
// order. It is no protection against chosen collisions and needs none: a
// collision costs spreading, not correctness.
func FlowHash(frame []byte) uint32 {
	l3, et, ok := networkHeader(frame)
	if ok {
		p := frame[l3:]
		switch {
		case et == etherIPv4 && len(p) >= 20:
			h := mix(uint64(binary.LittleEndian.Uint32(p[12:]))<<32|uint64(binary.LittleEndian.Uint32(p[16:])), uint64(p[9]))
			ihl := int(p[0]&0xf) * 4
			if (p[9] == protoTCP || p[9] == protoUDP) && binary.BigEndian.Uint16(p[6:])&0x3fff == 0 && ihl >= 20 && len(p) >= ihl+4 {
				h = mix(h, uint64(binary.LittleEndian.Uint32(p[ihl:])))
			}
			return uint32(h >> 32)
		case et == etherIPv6 && len(p) >= 40:
			h := mix(binary.LittleEndian.Uint64(p[8:]), binary.LittleEndian.Uint64(p[16:]))
			h = mix(h, binary.LittleEndian.Uint64(p[24:]))
			h = mix(h, binary.LittleEndian.Uint64(p[32:]))
			h = mix(h, uint64(p[6]))
			if (p[6] == protoTCP || p[6] == protoUDP) && len(p) >= 44 {
				h = mix(h, uint64(binary.LittleEndian.Uint32(p[40:])))
			}
			return uint32(h >> 32)
		}
	}
	if len(frame) < EthernetLen {
		return 0
	}
	return uint32(mix(binary.LittleEndian.Uint64(frame), uint64(binary.LittleEndian.Uint32(frame[8:]))<<16|uint64(et)) >> 32)
}

// mix is one multiply-and-xor round (the multiplier is 2^64 divided by the
// golden ratio, made odd).
func mix(h, v uint64) uint64 {
	h = (h ^ v) * 0x9e3779b97f4a7c15
	return h ^ h>>29
}
