// SPDX-License-Identifier: Apache-2.0

package engine

// A skew says how far behind its begin a buffer is to be filled, another way each
// time.
//
// The kernel copies to and from user space by one string instruction where the
// processor recommends it ("fsrm" in /proc/cpuinfo;
// arch/x86/include/asm/uaccess_64.h). On AMD's Zen 3 and 4 that takes twenty times as
// long when, within their pages, the destination lies up to 63 bytes behind the source.
// Where in a page a super-frame begins goes on from that of the one before, so two of
// one length in turn, into buffers at fixed places, can stay in that state for good:
// every second read of 64 KiB took 43 µs instead of 9. With places that change it is
// one in 64.
type skew struct{ state uint32 }

// maxSkew is more than next returns: a page.
const maxSkew = 4096

// next returns how many bytes are to be left out, a multiple of a cache line.
func (s *skew) next() int {
	// The upper bits of a linear congruential generator (Numerical Recipes' one).
	s.state = s.state*1664525 + 1013904223
	return int(s.state>>26) * 64
}
