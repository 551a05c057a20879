// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Bounds of the three numbers of a plan. Together they sum to 32, so the
// largest prefix that leaves a node bit and eight subnet bits is in fact 23.
const (
	minPrefix, maxPrefix = 1, 24
	minNode, maxNode     = 1, 16
	minSubnet            = 8
)

// PlanError says why a text is not an addressing plan.
type PlanError struct {
	Input  string // as given
	Reason string // which part is wrong, and what is allowed
	Hint   string // a plan near the input that is legal; "" when none is obvious
}

// Error prints the input, the reason and, where there is one, the hint.
func (e *PlanError) Error() string {
	s := fmt.Sprintf("%s is not an overlay subnet: %s", quote(e.Input), e.Reason)
	if e.Hint != "" {
		s += fmt.Sprintf("; %q would be right", e.Hint)
	}
	return s
}

// notUnicast lists networks whose addresses no interface can use. A plan that
// lies wholly inside one of them cannot work.
var notUnicast = []struct {
	net  netip.Prefix
	what string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "addresses of \"this network\" (RFC 1122 section 3.2.1.3)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback addresses"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast addresses"},
}

// ParsePlan reads "BASE/PREFIX/NODE_BITS/SUBNET_BITS", such as
// "10.0.0.0/8/8/16": an IPv4 network in CIDR notation, how many bits of what is
// left number the runners, and how many number the containers of a runner. The
// three numbers sum to 32; PREFIX is 1..24, NODE_BITS 1..16, SUBNET_BITS at
// least 8, and BASE has no bit set behind PREFIX. The error is a *[PlanError].
func ParsePlan(s string) (Plan, error) {
	fail := func(hint, format string, a ...any) (Plan, error) {
		return Plan{}, &PlanError{Input: s, Reason: fmt.Sprintf(format, a...), Hint: hint}
	}
	parts := strings.Split(s, "/")
	if len(parts) != 4 {
		return fail(completed(parts), "it has %s instead of the four of BASE/PREFIX/NODE_BITS/SUBNET_BITS",
			count(len(parts), "part"))
	}
	base, err := netip.ParseAddr(parts[0])
	switch {
	case err != nil:
		return fail("", "BASE %s is not an IPv4 address", quote(parts[0]))
	case !base.Is4():
		return fail("", "BASE %s is an IPv6 address; the overlay is IPv4 (the underlay may be either)", quote(parts[0]))
	}
	var n [3]int
	for i, name := range []string{"PREFIX", "NODE_BITS", "SUBNET_BITS"} {
		v, ok := decimal(parts[i+1])
		if !ok {
			return fail("", "%s %s is not a whole number written in digits", name, quote(parts[i+1]))
		}
		n[i] = v
	}
	prefix, node, subnet := n[0], n[1], n[2]
	switch {
	case prefix < minPrefix || prefix > maxPrefix:
		return fail("", "PREFIX is %d, must be %d..%d", prefix, minPrefix, maxPrefix)
	case node < minNode || node > maxNode:
		return fail(shaped(base, prefix, 32-prefix-subnet, subnet),
			"NODE_BITS is %d, must be %d..%d", node, minNode, maxNode)
	case subnet < minSubnet:
		return fail(shaped(base, prefix, node, 32-prefix-node),
			"SUBNET_BITS is %d, must be at least %d", subnet, minSubnet)
	case prefix+node+subnet != 32:
		hint := shaped(base, prefix, node, 32-prefix-node)
		if hint == "" {
			hint = shaped(base, prefix, 32-prefix-subnet, subnet)
		}
		return fail(hint, "PREFIX, NODE_BITS and SUBNET_BITS are %d+%d+%d = %d, must sum to 32",
			prefix, node, subnet, prefix+node+subnet)
	}
	p := Plan{base: uint32Of(base), prefix: uint8(prefix), node: uint8(node), subnet: uint8(subnet)}
	if m := netip.PrefixFrom(base, prefix).Masked().Addr(); m != base {
		return fail(shaped(base, prefix, node, subnet), "BASE %s has bits set behind PREFIX %d", base, prefix)
	}
	if what := specialUse(p); what != "" {
		return fail("", "%s holds %s, which no interface can use", p.Overlay(), what)
	}
	return p, nil
}

// MustParsePlan is [ParsePlan] for constants; it panics on an error.
func MustParsePlan(s string) Plan {
	p, err := ParsePlan(s)
	if err != nil {
		panic("conf: " + err.Error())
	}
	return p
}

// shaped returns the plan with these numbers and base cut to the prefix, or ""
// when there is no such plan.
func shaped(base netip.Addr, prefix, node, subnet int) string {
	if prefix < minPrefix || prefix > maxPrefix || node < minNode || node > maxNode ||
		subnet < minSubnet || prefix+node+subnet != 32 {
		return ""
	}
	p := Plan{
		base:   uint32Of(netip.PrefixFrom(base, prefix).Masked().Addr()),
		prefix: uint8(prefix), node: uint8(node), subnet: uint8(subnet),
	}
	if specialUse(p) != "" {
		return ""
	}
	return p.String()
}

// completed makes a plan of an address or network with numbers missing, which
// is what somebody writes who takes the setting for plain CIDR.
func completed(parts []string) string {
	base, err := netip.ParseAddr(parts[0])
	if err != nil || !base.Is4() || len(parts) < 2 {
		return ""
	}
	prefix, ok := decimal(parts[1])
	if !ok {
		return ""
	}
	node := min((32-prefix)/2, 8)
	if len(parts) > 2 {
		if node, ok = decimal(parts[2]); !ok {
			return ""
		}
	} else if 32-prefix-node < minSubnet {
		node = 32 - prefix - minSubnet
	}
	return shaped(base, prefix, node, 32-prefix-node)
}

func specialUse(p Plan) string {
	for _, s := range notUnicast {
		if s.net.Contains(p.Overlay().Addr()) && s.net.Bits() <= int(p.prefix) {
			return s.what
		}
	}
	return ""
}

// decimal reads one to three digits without sign or leading zero, so that a
// plan has one spelling only.
func decimal(s string) (int, bool) {
	if len(s) == 0 || len(s) > 3 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	v, err := strconv.Atoi(s)
	return v, err == nil
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
