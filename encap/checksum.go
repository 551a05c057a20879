// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"encoding/binary"
	"math/bits"
)

// Checksum returns the one's complement sum (RFC 1071) of b taken as 16-bit
// big-endian words, an odd last byte padded with zero, plus initial. It is not
// inverted: over data that holds a right checksum the result is 0xffff.
// Parts of one message may be summed one after the other as long as every part
// but the last has even length.
func Checksum(b []byte, initial uint16) uint16 {
	sum, rest := sumWide(b)
	return sumRest(b, rest, sum, initial)
}

// CopyChecksum copies src to the begin of dst, which is to be no shorter and not to
// overlap it, and returns Checksum(src, initial): what is summed has to be brought
// from memory anyway.
func CopyChecksum(dst, src []byte, initial uint16) uint16 {
	dst = dst[:len(src)]
	sum, rest := copyWide(dst, src)
	copy(dst[len(src)-len(rest):], rest)
	return sumRest(src, rest, sum, initial)
}

// sumRest finishes a checksum of b. sum is that of its front, as 32-bit words in the
// order of memory, and rest what is left.
func sumRest(b, rest []byte, sum uint64, initial uint16) uint16 {
	// Words are summed in the order of memory, eight bytes at a time, and the
	// byte order is mended at the end (RFC 1071 section 2(B)); a carry out of
	// 64 bits is worth the same as a carry out of 16.
	acc := sum
	if len(rest) >= 64 { // all of it: a front that was summed leaves less
		acc, rest = sumWords(rest)
	}
	for len(rest) >= 8 {
		w := binary.LittleEndian.Uint64(rest)
		acc += w>>32 + w&0xffffffff // far from a carry: fewer than 2^31 bytes
		rest = rest[8:]
	}
	if n := len(rest); n > 0 && len(b) >= 8 {
		w := binary.LittleEndian.Uint64(b[len(b)-8:]) >> (64 - 8*n)
		acc += w>>32 + w&0xffffffff
	} else if n > 0 {
		acc += sumShort(rest)
	}

	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16&0xffff + acc&0xffff + acc>>32
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return fold(uint32(bits.ReverseBytes16(uint16(acc))) + uint32(initial))
}

// sumShort sums fewer than eight bytes.
func sumShort(b []byte) (sum uint64) {
	if len(b) >= 4 {
		sum = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		sum += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint64(b[0])
	}
	return sum
}

// sumWords sums the front of b where there are no wide registers, or it is too
// short for them, and returns the last bytes, fewer than 64. The sum is below 2^33.
func sumWords(b []byte) (acc uint64, rest []byte) {
	var c uint64
	for len(b) >= 64 {
		w := b[:64:64]
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[0:]), 0)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[32:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[40:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[48:]), c)
		acc, c = bits.Add64(acc, binary.LittleEndian.Uint64(w[56:]), c)
		acc += c
		b = b[64:]
	}
	return acc>>32 + acc&0xffffffff, b
}

// fold brings a sum of few 16-bit values back to 16 bits.
func fold(s uint32) uint16 {
	s = s>>16 + s&0xffff
	return uint16(s>>16 + s)
}

// add16 is the one's complement sum of two sums.
func add16(a, b uint16) uint16 { return fold(uint32(a) + uint32(b)) }

// sub16 takes b out of the sum a.
func sub16(a, b uint16) uint16 { return fold(uint32(a) + uint32(^b)) }

// add32 adds the two halves of a 32-bit field to a sum.
func add32(a uint16, v uint32) uint16 { return fold(uint32(a) + v>>16 + v&0xffff) }
