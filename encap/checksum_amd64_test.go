// SPDX-License-Identifier: Apache-2.0

package encap

import "testing"

// TestChecksumPlain is TestChecksum and TestCopyChecksum as on a processor without wide
// registers.
func TestChecksumPlain(t *testing.T) {
	if !hasWide {
		t.Log("this processor has no AVX2, so TestChecksum was the same")
	}
	defer func(has bool) { hasWide = has }(hasWide)
	hasWide = false
	TestChecksum(t)
	TestCopyChecksum(t)
}
