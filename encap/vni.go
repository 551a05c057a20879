// SPDX-License-Identifier: Apache-2.0

package encap

import (
	"fmt"
	"strconv"
)

// A VNI is a VXLAN network identifier, 24 bits wide (RFC 7348 section 5).
// The zero value is a legal VNI; use Valid to find values that do not fit.
type VNI uint32

// MaxVNI is the largest VNI that the header can carry.
const MaxVNI VNI = 1<<24 - 1

// Valid reports whether v fits the header's 24 bits. Functions that write a
// header never truncate: they demand a valid VNI.
func (v VNI) Valid() bool { return v <= MaxVNI }

// String returns v in decimal, as ip-link(8) prints it.
func (v VNI) String() string { return strconv.FormatUint(uint64(v), 10) }

// ParseVNI reads a decimal VNI between 0 and MaxVNI.
func ParseVNI(s string) (VNI, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || !VNI(n).Valid() {
		return 0, fmt.Errorf("VNI %q: must be a number from 0 to %d", s, MaxVNI)
	}
	return VNI(n), nil
}
