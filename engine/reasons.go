// SPDX-License-Identifier: Apache-2.0

package engine

// Drops lists all reasons.
func Drops() []Drop {
	all := make([]Drop, numDrops)
	for d := range numDrops {
		all[d] = d
	}
	return all
}

// OfTunnel reports whether the reason is only met where the tunnel is known, so
// that the engine as a whole does not count it.
func (d Drop) OfTunnel() bool { return d >= DropFrameShort }
