// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPlanExamples(t *testing.T) {
	for _, c := range []struct {
		plan, overlay, host  string
		runners, id          int
		subnet, gate, hostOn string
	}{
		{"10.0.0.0/8/8/16", "10.0.0.0/8", "10.0.0.1/8", 255, 1, "10.1.0.0/16", "10.1.0.1", "10.1.0.254"},
		{"10.0.0.0/8/8/16", "10.0.0.0/8", "10.0.0.1/8", 255, 255, "10.255.0.0/16", "10.255.0.1", "10.255.0.254"},
		{"10.128.0.0/12/6/14", "10.128.0.0/12", "10.128.0.1/12", 63, 1, "10.128.64.0/18", "10.128.64.1", "10.128.64.254"},
		{"10.128.0.0/12/6/14", "10.128.0.0/12", "10.128.0.1/12", 63, 63, "10.143.192.0/18", "10.143.192.1", "10.143.192.254"},
		{"192.168.254.0/23/1/8", "192.168.254.0/23", "192.168.254.1/23", 1, 1, "192.168.255.0/24", "192.168.255.1", "192.168.255.254"},
	} {
		p, err := ParsePlan(c.plan)
		if err != nil {
			t.Errorf("%s: %v", c.plan, err)
			continue
		}
		got := fmt.Sprint(p, p.Overlay(), p.HostPrefix(), p.HostAddr(), p.MaxRunners(), p.Subnet(c.id), p.Gateway(c.id), p.HostOn(c.id))
		addr, _, _ := strings.Cut(c.host, "/")
		want := fmt.Sprint(c.plan, " ", c.overlay, " ", c.host, " ", addr, " ", c.runners, " ", c.subnet, " ", c.gate, " ", c.hostOn)
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", c.plan, got, want)
		}
	}
}

// slowPlan is the obvious twin of Plan: addresses as strings of 32 binary
// digits, cut and joined.
type slowPlan struct {
	base                 string
	prefix, node, subnet int
}

func (s slowPlan) address(id, offset int) netip.Addr {
	digits := s.base[:s.prefix] + fmt.Sprintf("%0*b", s.node, id) + fmt.Sprintf("%0*b", s.subnet, offset)
	v, ok := new(big.Int).SetString(digits, 2)
	if !ok || len(digits) != 32 {
		panic("twin: not 32 binary digits: " + digits)
	}
	a, _ := netip.AddrFromSlice(v.FillBytes(make([]byte, 4)))
	return a
}

func (s slowPlan) runnerOf(a netip.Addr) (int, bool) {
	b := a.As4()
	digits := fmt.Sprintf("%08b%08b%08b%08b", b[0], b[1], b[2], b[3])
	if digits[:s.prefix] != s.base[:s.prefix] {
		return 0, false
	}
	id, _ := new(big.Int).SetString(digits[s.prefix:s.prefix+s.node], 2)
	return int(id.Int64()), id.Sign() != 0
}

// drawShape draws the three numbers of a legal plan.
func drawShape(t *rapid.T) (prefix, node, subnet int) {
	prefix = rapid.IntRange(1, 23).Draw(t, "prefix")
	node = rapid.IntRange(max(1, 32-prefix-30), min(16, 32-prefix-8)).Draw(t, "node")
	return prefix, node, 32 - prefix - node
}

// drawPlan draws a legal plan with its twin.
func drawPlan(t *rapid.T) (Plan, slowPlan) {
	prefix, node, subnet := drawShape(t)
	s := slowPlan{prefix: prefix, node: node, subnet: subnet}
	top := rapid.Uint32().Filter(func(v uint32) bool {
		v &= ^uint32(0) << (32 - prefix)
		return !(v>>24 == 127 && prefix >= 8 || v>>28 == 14 && prefix >= 4 || v>>24 == 0 && prefix >= 8)
	}).Draw(t, "base") & (^uint32(0) << (32 - prefix))
	s.base = fmt.Sprintf("%032b", top)
	text := fmt.Sprintf("%s/%d/%d/%d", s.address(0, 0), prefix, node, subnet)
	p, err := ParsePlan(text)
	if err != nil {
		t.Fatalf("ParsePlan(%q): %v", text, err)
	}
	if p.String() != text {
		t.Fatalf("String of %q is %q", text, p)
	}
	return p, s
}

func TestPlanAgainstSlowTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, s := drawPlan(t)
		if got, want := p.HostAddr(), s.address(0, 1); got != want {
			t.Fatalf("HostAddr %s, want %s", got, want)
		}
		if got, want := p.HostPrefix(), netip.PrefixFrom(s.address(0, 1), s.prefix); got != want {
			t.Fatalf("HostPrefix %s, want %s", got, want)
		}
		id := rapid.IntRange(1, p.MaxRunners()).Draw(t, "id")
		if got, want := p.Subnet(id), netip.PrefixFrom(s.address(id, 0), s.prefix+s.node); got != want {
			t.Fatalf("Subnet(%d) %s, want %s", id, got, want)
		}
		if got, want := p.Gateway(id), s.address(id, 1); got != want {
			t.Fatalf("Gateway(%d) %s, want %s", id, got, want)
		}
		if got, want := p.HostOn(id), s.address(id, 254); got != want {
			t.Fatalf("HostOn(%d) %s, want %s", id, got, want)
		}
		inside := s.address(id, rapid.IntRange(0, 1<<s.subnet-1).Draw(t, "offset"))
		if got, ok := p.RunnerOf(inside); got != id || !ok {
			t.Fatalf("RunnerOf(%s) = %d, %v, want %d", inside, got, ok, id)
		}
		any := addr4(rapid.Uint32().Draw(t, "address"))
		got, ok := p.RunnerOf(any)
		if want, wantOK := s.runnerOf(any); got != want || ok != wantOK {
			t.Fatalf("RunnerOf(%s) = %d, %v, want %d, %v", any, got, ok, want, wantOK)
		}
	})
}

// TestPlanEveryShape goes through every triple of numbers, legal or not.
func TestPlanEveryShape(t *testing.T) {
	legal := 0
	for prefix := range 34 {
		for node := range 34 {
			for subnet := range 34 {
				text := fmt.Sprintf("128.0.0.0/%d/%d/%d", prefix, node, subnet)
				want := prefix >= 1 && prefix <= 24 && node >= 1 && node <= 16 && subnet >= 8 && prefix+node+subnet == 32
				p, err := ParsePlan(text)
				if (err == nil) != want {
					t.Fatalf("ParsePlan(%q): %v, legal is %v", text, err, want)
				}
				if err != nil {
					checkPlanError(t, text, err)
					continue
				}
				legal++
				checkDisjoint(t, p)
			}
		}
	}
	// 23 prefixes; node bits are bounded by 16 above and by subnets of 8 below.
	sum := 0
	for prefix := 1; prefix <= 23; prefix++ {
		sum += min(16, 24-prefix)
	}
	if legal != sum {
		t.Errorf("%d legal shapes, want %d", legal, sum)
	}
}

// checkDisjoint asserts that subnets follow each other without gap or overlap,
// from behind the Host's part to the end of the overlay.
func checkDisjoint(t *testing.T, p Plan) {
	t.Helper()
	next := uint64(uint32Of(p.Overlay().Addr())) + 1<<p.subnet
	for id := 1; id <= p.MaxRunners(); id++ {
		s := p.Subnet(id)
		if got := uint64(uint32Of(s.Addr())); got != next || s != s.Masked() {
			t.Fatalf("%s: subnet %d is %s, want it at %s", p, id, s, addr4(uint32(next)))
		}
		next += 1 << p.subnet
		for _, a := range []netip.Addr{p.Gateway(id), p.HostOn(id)} {
			if got, ok := p.RunnerOf(a); got != id || !ok || !s.Contains(a) {
				t.Fatalf("%s: RunnerOf(%s) = %d, %v, want %d", p, a, got, ok, id)
			}
		}
	}
	if end := uint64(uint32Of(p.Overlay().Addr())) + 1<<(32-p.prefix); next != end {
		t.Fatalf("%s: subnets end at %d, the overlay at %d", p, next, end)
	}
}

// checkPlanError asserts what every refusal owes: the type, the input quoted,
// and a hint that is legal when there is one.
func checkPlanError(t *testing.T, text string, err error) {
	t.Helper()
	var pe *PlanError
	if !errors.As(err, &pe) || pe.Input != text || pe.Reason == "" {
		t.Fatalf("ParsePlan(%q): %#v", text, err)
	}
	if !strings.HasPrefix(err.Error(), quote(text)) {
		t.Errorf("ParsePlan(%q): does not begin with the input: %v", text, err)
	}
	if pe.Hint != "" {
		if _, err := ParsePlan(pe.Hint); err != nil {
			t.Errorf("ParsePlan(%q) recommends %q: %v", text, pe.Hint, err)
		}
	}
}

func TestParsePlanRefusals(t *testing.T) {
	for _, c := range []struct{ in, reason, hint string }{
		{"", "it has 1 part instead of the four", ""},
		{"10.0.0.0", "it has 1 part", ""},
		{"10.0.0.0/8", "it has 2 parts", "10.0.0.0/8/8/16"},
		{"10.128.0.0/20", "it has 2 parts", "10.128.0.0/20/4/8"},
		{"10.0.0.0/8/4", "it has 3 parts", "10.0.0.0/8/4/20"},
		{"10.0.0.0/8/8/16/0", "it has 5 parts", "10.0.0.0/8/8/16"},
		{"10.0.0/8/8/16", `BASE "10.0.0" is not an IPv4 address`, ""},
		{"10.0.0.256/8/8/16", `BASE "10.0.0.256" is not an IPv4 address`, ""},
		{"fd00::/8/8/16", `BASE "fd00::" is an IPv6 address`, ""},
		{"::ffff:10.0.0.0/8/8/16", "is an IPv6 address", ""},
		{"10.0.0.0/x/8/16", `PREFIX "x" is not a whole number`, ""},
		{"10.0.0.0/+8/8/16", `PREFIX "+8" is not a whole number`, ""},
		{"10.0.0.0/8/08/16", `NODE_BITS "08" is not a whole number`, ""},
		{"10.0.0.0/8/8/16 ", `SUBNET_BITS "16 " is not a whole number`, ""},
		{"10.0.0.0/8/8/-16", `SUBNET_BITS "-16" is not a whole number`, ""},
		{"10.0.0.0/0/16/16", "PREFIX is 0, must be 1..24", ""},
		{"10.0.0.0/25/1/6", "PREFIX is 25, must be 1..24", ""},
		{"10.0.0.0/8/0/24", "NODE_BITS is 0, must be 1..16", ""},
		{"10.0.0.0/8/17/8", "NODE_BITS is 17, must be 1..16", "10.0.0.0/8/16/8"},
		{"10.0.0.0/16/9/7", "SUBNET_BITS is 7, must be at least 8", ""},
		{"10.0.0.0/16/8/7", "SUBNET_BITS is 7, must be at least 8", "10.0.0.0/16/8/8"},
		{"10.0.0.0/8/8/15", "8+8+15 = 31, must sum to 32", "10.0.0.0/8/8/16"},
		{"10.0.0.0/12/16/16", "12+16+16 = 44, must sum to 32", "10.0.0.0/12/4/16"},
		{"10.0.0.5/8/8/16", "BASE 10.0.0.5 has bits set behind PREFIX 8", "10.0.0.0/8/8/16"},
		{"10.130.0.0/12/6/14", "BASE 10.130.0.0 has bits set behind PREFIX 12", "10.128.0.0/12/6/14"},
		{"127.0.0.0/8/8/16", "127.0.0.0/8 holds loopback addresses", ""},
		{"127.1.0.1/16/8/8", "has bits set", ""},
		{"224.0.0.0/4/12/16", "holds multicast addresses", ""},
		{"239.1.0.0/16/8/8", "holds multicast addresses", ""},
		{"0.0.0.0/8/8/16", "holds addresses of", ""},
	} {
		_, err := ParsePlan(c.in)
		if err == nil {
			t.Errorf("ParsePlan(%q) succeeded", c.in)
			continue
		}
		checkPlanError(t, c.in, err)
		var pe *PlanError
		if errors.As(err, &pe); !strings.Contains(pe.Reason, c.reason) || pe.Hint != c.hint {
			t.Errorf("ParsePlan(%q):\n got %q, hint %q\nwant %q, hint %q", c.in, pe.Reason, pe.Hint, c.reason, c.hint)
		}
	}
}

func TestPlanZeroAndRange(t *testing.T) {
	var zero Plan
	if zero.IsValid() || zero.String() != "invalid plan" || zero.Overlaps(netip.MustParsePrefix("0.0.0.0/0")) {
		t.Error("the zero Plan passes for one")
	}
	if _, ok := zero.RunnerOf(netip.MustParseAddr("0.1.0.0")); ok {
		t.Error("the zero Plan has runners")
	}
	p := MustParsePlan("10.0.0.0/8/8/16")
	for name, f := range map[string]func(){
		"Subnet(0)":     func() { p.Subnet(0) },
		"Subnet(-1)":    func() { p.Subnet(-1) },
		"Subnet(256)":   func() { p.Subnet(256) },
		"Gateway(256)":  func() { p.Gateway(256) },
		"HostOn(0)":     func() { p.HostOn(0) },
		"zero Overlay":  func() { zero.Overlay() },
		"zero HostAddr": func() { zero.HostAddr() },
		"MustParsePlan": func() { MustParsePlan("10.0.0.0/8") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s does not panic", name)
				}
			}()
			f()
		}()
	}
	for a, want := range map[string]int{
		"10.7.1.2": 7, "::ffff:10.7.1.2": 7, "10.0.0.1": 0, "10.0.255.255": 0, "11.1.0.0": 0, "fd00::1": 0,
	} {
		if id, ok := p.RunnerOf(netip.MustParseAddr(a)); id != want || ok != (want != 0) {
			t.Errorf("RunnerOf(%s) = %d, %v, want %d", a, id, ok, want)
		}
	}
	if _, ok := p.RunnerOf(netip.Addr{}); ok {
		t.Error("RunnerOf accepts the zero Addr")
	}
}

func TestPlanOverlaps(t *testing.T) {
	p := MustParsePlan("10.128.0.0/12/6/14")
	for q, want := range map[string]bool{
		"10.128.0.0/12": true, "10.143.255.255/32": true, "10.0.0.0/8": true, "0.0.0.0/0": true,
		"10.144.0.0/12": false, "10.127.255.255/32": false, "192.168.0.0/16": false, "fd00::/8": false, "::/0": false,
		"::ffff:10.130.0.0/112": true, "::ffff:10.0.0.0/112": false,
	} {
		if got := p.Overlaps(netip.MustParsePrefix(q)); got != want {
			t.Errorf("Overlaps(%s) = %v", q, got)
		}
	}
	if p.Overlaps(netip.Prefix{}) {
		t.Error("overlaps the zero Prefix")
	}
}

func TestDeviceNames(t *testing.T) {
	for id, want := range map[int]string{1: "vxkr1", 10: "vxkra", 35: "vxkrz", 36: "vxkr10", 255: "vxkr73", 65535: "vxkr1ekf"} {
		if got := HostDevice(id); got != want {
			t.Errorf("HostDevice(%d) = %q, want %q", id, got, want)
		}
	}
	seen := map[string]bool{}
	for id := 1; id <= 65535; id++ {
		name := HostDevice(id)
		if got, ok := RunnerIDOfDevice(name); got != id || !ok || len(name) > 15 || seen[name] {
			t.Fatalf("RunnerIDOfDevice(%q) = %d, %v, want %d", name, got, ok, id)
		}
		seen[name] = true
	}
	for _, name := range []string{
		"", "vxkr", "vxkr0", "vxkr01", "vxkrA", "vxkr+1", "vxkr-1", "vxkr1 ", "vxkr_1", "vxkr1ekg", "vxkrzzzzzzzzzzzzzzz", "vxlan0", "xvxkr1",
		HostAddressDevice, RunnerTunnelDevice, BridgeDevice,
	} {
		if id, ok := RunnerIDOfDevice(name); ok {
			t.Errorf("RunnerIDOfDevice(%q) = %d", name, id)
		}
	}
}
