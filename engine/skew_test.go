// SPDX-License-Identifier: Apache-2.0

package engine

import "testing"

// TestSkew: every cache line of a page is used, and about as often, so that no
// sequence of places in which the kernel's sources lie can fall into step.
func TestSkew(t *testing.T) {
	const rounds = 64 * 1000
	var s skew
	var seen [maxSkew / 64]int
	for range rounds {
		n := s.next()
		if n < 0 || n >= maxSkew || n%64 != 0 {
			t.Fatalf("skew %d: want a multiple of 64 below %d", n, maxSkew)
		}
		seen[n/64]++
	}
	for line, n := range seen {
		if n < 800 || n > 1200 {
			t.Errorf("cache line %d was chosen %d times of %d, want about 1000", line, n, rounds)
		}
	}
}
