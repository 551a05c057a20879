// SPDX-License-Identifier: Apache-2.0

package encap

import "golang.org/x/sys/cpu"

// hasWide says that the processor has 256-bit registers for integers (AVX2).
var hasWide = cpu.X86.HasAVX2

const (
	wideBlock = 32 // what sumAVX2 takes at a time, in bytes
	// wideMin is the length from which wide registers pay: below it, and that is
	// where headers are, the time goes into adding up their lanes.
	wideMin = 128
)

// sumWide sums the front of b as 32-bit words in the order of memory, without
// losing a carry, and returns what is left: all of it, if wide registers do not pay.
func sumWide(b []byte) (sum uint64, rest []byte) {
	if !hasWide || len(b) < wideMin {
		return 0, b
	}
	n := len(b) - len(b)%wideBlock
	return sumAVX2(&b[0], n), b[n:]
}

// copyWide is sumWide that copies to dst what it sums.
func copyWide(dst, src []byte) (sum uint64, rest []byte) {
	if !hasWide || len(src) < wideMin {
		return 0, src
	}
	n := len(src) - len(src)%wideBlock
	return copySumAVX2(&dst[0], &src[0], n), src[n:]
}

// sumAVX2 sums n bytes, a multiple of wideBlock, at least 128 and no more than 2^31.
//
//go:noescape
func sumAVX2(b *byte, n int) uint64

// copySumAVX2 is sumAVX2 that copies to dst.
//
//go:noescape
func copySumAVX2(dst, src *byte, n int) uint64
