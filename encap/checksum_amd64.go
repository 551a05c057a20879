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

// sumAVX2 sums n bytes, a multiple of wideBlock, at least 128 and no more than 2^31.
//
//go:noescape
func sumAVX2(b *byte, n int) uint64
