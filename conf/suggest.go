// SPDX-License-Identifier: Apache-2.0

package conf

import "net/netip"

// privatePools are the networks that a suggested overlay may lie in, best
// first: RFC 1918 without 192.168.0.0/16, where most underlays are, and the
// shared space of RFC 6598.
var privatePools = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("100.64.0.0/10"),
}

// SuggestPlan returns a plan that overlaps none of taken, in private address
// space, with p's shape if one fits and else with the nearest smaller one: bits
// are given up one by one, by the subnets or the runners, whichever have more to
// spare. ok is false when
// nothing fits; a default route in taken has that effect, so leave it out.
func SuggestPlan(p Plan, taken []netip.Prefix) (suggestion Plan, ok bool) {
	for q := p; q.IsValid(); q = smaller(q) {
		for _, pool := range privatePools {
			if pool.Bits() > int(q.prefix) {
				continue
			}
			q.base = uint32Of(pool.Addr())
			for range 1 << (int(q.prefix) - pool.Bits()) {
				if !overlapsAny(q, taken) {
					return q, true
				}
				q.base += 1 << (32 - q.prefix)
			}
		}
	}
	return Plan{}, false
}

// smaller returns the shape of q with one bit less to share out, or the zero
// Plan when no bit can be given up. Its base means nothing.
func smaller(q Plan) Plan {
	switch {
	case q.subnet > minSubnet && (q.subnet-minSubnet >= q.node-minNode || q.node == minNode):
		q.subnet--
	case q.node > minNode:
		q.node--
	default:
		return Plan{}
	}
	q.prefix++
	return q
}

func overlapsAny(p Plan, taken []netip.Prefix) bool {
	for _, t := range taken {
		if p.Overlaps(t) {
			return true
		}
	}
	return false
}
