// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestSuggestPlan(t *testing.T) {
	for _, c := range []struct {
		plan  string
		taken []string
		want  string // "" for none
	}{
		{"10.0.0.0/8/8/16", nil, "10.0.0.0/8/8/16"},
		{"172.16.0.0/12/6/14", []string{"172.17.0.0/16"}, "10.0.0.0/12/6/14"},
		{"10.0.0.0/8/8/16", []string{"10.1.2.0/24"}, "10.128.0.0/9/8/15"},
		{"10.0.0.0/8/8/16", []string{"10.1.2.0/24", "10.200.0.0/16"}, "10.64.0.0/10/8/14"},
		{"10.128.0.0/12/6/14", []string{"10.0.0.0/8"}, "172.16.0.0/12/6/14"},
		{"10.128.0.0/12/6/14", []string{"10.0.0.0/8", "172.16.0.0/12"}, "100.64.0.0/12/6/14"},
		{"10.0.0.0/8/8/16", []string{"10.0.0.0/8", "172.17.0.0/16", "fd00::/8"}, "100.64.0.0/10/8/14"},
		{"10.0.0.0/8/8/16", []string{"10.0.0.0/8", "172.16.0.0/12", "100.64.0.0/10"}, ""},
		{"10.0.0.0/8/8/16", []string{"0.0.0.0/0"}, ""},
		{"128.0.0.0/1/16/15", nil, "10.0.0.0/8/9/15"},
		{"10.2.0.0/23/1/8", []string{"10.0.0.0/9"}, "10.128.0.0/23/1/8"},
	} {
		var taken []netip.Prefix
		for _, s := range c.taken {
			taken = append(taken, netip.MustParsePrefix(s))
		}
		got, ok := SuggestPlan(MustParsePlan(c.plan), taken)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("SuggestPlan(%s, %v) = %s, %v, want %q", c.plan, c.taken, got, ok, c.want)
		}
	}
	if p, ok := SuggestPlan(Plan{}, nil); ok {
		t.Errorf("SuggestPlan of the zero Plan = %s", p)
	}
}

func TestSuggestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, _ := drawPlan(t)
		var taken []netip.Prefix
		for range rapid.IntRange(0, 6).Draw(t, "networks") {
			pool := rapid.SampledFrom(privatePools).Draw(t, "pool")
			bits := rapid.IntRange(pool.Bits(), 32).Draw(t, "bits")
			a := addr4(uint32Of(pool.Addr()) | rapid.Uint32().Draw(t, "address")>>pool.Bits())
			taken = append(taken, netip.PrefixFrom(a, bits).Masked())
		}
		q, ok := SuggestPlan(p, taken)
		if !ok {
			// Nothing may be refused that a pool has room for.
			free := func(pool netip.Prefix) bool {
				for _, n := range taken {
					if n.Overlaps(pool) {
						return false
					}
				}
				return true
			}
			for _, pool := range privatePools {
				if free(pool) {
					t.Fatalf("nothing for %s beside %v, but %s is free", p, taken, pool)
				}
			}
			return
		}
		if again, err := ParsePlan(q.String()); err != nil || again != q {
			t.Fatalf("suggests %s: %v", q, err)
		}
		private := false
		for _, pool := range privatePools {
			private = private || pool.Contains(q.Overlay().Addr()) && pool.Bits() <= q.Overlay().Bits()
		}
		if !private {
			t.Fatalf("suggests %s, which is not private", q)
		}
		for _, n := range taken {
			if q.Overlaps(n) {
				t.Fatalf("suggests %s, which overlaps %s", q, n)
			}
		}
		if q.prefix < p.prefix || q.node > p.node || q.subnet > p.subnet {
			t.Fatalf("suggests %s for %s, which is larger", q, p)
		}
	})
}
