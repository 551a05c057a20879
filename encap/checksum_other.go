// SPDX-License-Identifier: Apache-2.0

//go:build !amd64

package encap

// sumWide leaves everything to plain Go: bits.Add64 becomes the carry
// instructions of other processors, which is about as fast as their memory.
func sumWide(b []byte) (sum uint64, rest []byte) { return 0, b }

// copyWide leaves everything, too.
func copyWide(dst, src []byte) (sum uint64, rest []byte) { return 0, src }
