// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"net/netip"
	"strings"
	"testing"
)

var wholeRunner = Rules{
	Overlay: netip.MustParsePrefix("10.0.0.0/8"), Masquerade: true, Port: 4789, Peer: netip.MustParseAddr("192.0.2.1"),
	Trusted: []string{"kohaku-overlay", "vxlan0"}, Underlay: []string{"eth0"},
}

var wholeHost = Rules{
	Overlay: netip.MustParsePrefix("10.0.0.0/8"), Port: 4789,
	Trusted: []string{"vxkr1", "vxkr2", "kohaku-host"}, Underlay: []string{"eth0"},
}

// A chain of somebody else that drops for certain is named; one that may let through
// is not.
func TestObstacles(t *testing.T) {
	const forward, input = "table inet fw { chain forward { type filter hook forward priority 0; ", "table inet fw { chain input { type filter hook input priority 0; "
	for _, c := range []struct {
		name, rules string
		want        string // in the one problem; empty: none
	}{
		{"nothing", "", ""},
		{"accepting", forward + "policy accept; tcp dport 25 drop; }; }", ""},
		{"policy drop", forward + "policy drop; }; }", `chain "forward" of table inet fw drops what containers send each other (its policy is drop)`},
		{"reject", forward + "policy accept; ct state established,related accept; reject with icmpx type admin-prohibited; }; }", "rejects with admin-prohibited"},
		{"other addresses", forward + "policy drop; ip saddr 192.168.0.0/16 accept; iifname { eth0, eth1 } accept; tcp dport { 22, 80-90 } accept; }; }", "its policy is drop"},
		{"by address", forward + "policy drop; ip saddr 10.0.0.0/8 accept; }; }", ""},
		{"by range", forward + "policy drop; ip saddr 10.0.0.0-10.200.0.0 accept; }; }", ""},
		{"by device", forward + `policy drop; iifname { "vxkr*", "kohaku-overlay" } accept; }; }`, ""},
		{"in another chain", "table ip fw { chain ours { ip daddr 10.0.0.0/8 counter accept; }; chain forward { type filter hook forward priority 5; policy drop; jump ours; }; }", ""},
		{"goto and return", "table ip fw { chain a { return; }; chain forward { type filter hook forward priority 5; policy drop; goto a; accept; }; }", "its policy is drop"},
		{"map of verdicts", forward + "policy drop; ct state vmap { established : accept, new : drop, invalid : drop }; accept; }; }", "drop rule"},
		{"map that accepts", forward + "policy drop; iifname vmap { kohaku-overlay : accept, vxkr1 : accept }; }; }", ""},
		{"named set", "table inet fw { set nets { type ipv4_addr; flags interval; elements = { 172.16.0.0/12 }; }; chain forward { type filter hook forward priority 0; policy drop; ip saddr @nets accept; }; }", ""},
		{"limit", forward + "policy drop; limit rate 10/second accept; }; }", ""},
		{"maybe dropped", forward + "policy accept; limit rate over 10/second drop; }; }", ""},
		{"not another one", forward + "policy accept; ip saddr != 10.0.0.0/8 drop; }; }", ""},
		{"not ours", forward + "policy accept; ip saddr != 192.168.0.0/16 drop; }; }", "a drop rule"},
		{"IPv6 only", "table ip6 fw { chain forward { type filter hook forward priority 0; policy drop; }; }", ""},
		{"input closed", input + "policy drop; tcp dport 22 accept; iifname lo accept; }; }", "drops VXLAN (its policy is drop)"},
		{"input open for VXLAN", input + "policy drop; udp dport { 53, 4789 } accept; }; }", ""},
		{"input by transport header", input + "policy drop; meta l4proto { tcp, udp } th dport 4789 accept; }; }", ""},
		{"raw", "table ip raw { chain p { type filter hook prerouting priority -300; policy accept; udp dport 4789 drop; }; }", `"p" of table ip raw drops VXLAN`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			m.choose("nft")
			feed(t, c.rules, "nft", "-f", "-")
			for _, r := range []Rules{wholeRunner, wholeHost} {
				_, err := m.Ensure(r)
				switch {
				case c.want == "" && err != nil:
					t.Errorf("problem %v, want none", err)
				case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "nft insert rule")):
					t.Errorf("problem %v, want one that says %q and what to do", err, c.want)
				}
				if _, many := err.(sentences); many {
					t.Errorf("more than one problem: %v", err)
				}
			}
		})
	}
}

// With an IPv6 underlay, IPv6's chains are asked about VXLAN.
func TestObstacleIPv6(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	feed(t, "table ip6 fw { chain c { type filter hook input priority 0; policy drop; ip6 saddr fd00::2 accept; }; }\n"+
		"table ip fw { chain c { type filter hook input priority 0; policy drop; }; }", "nft", "-f", "-")
	r := wholeRunner
	r.Peer = netip.MustParseAddr("fd00::1")
	if _, err := m.Ensure(r); err == nil || !strings.Contains(err.Error(), "table ip6 fw drops VXLAN") || strings.Contains(err.Error(), "table ip fw") {
		t.Errorf("problem %v", err)
	}
	r.Peer = netip.MustParseAddr("fd00::2")
	if _, err := m.Ensure(r); err != nil {
		t.Errorf("problem %v, want none", err)
	}
}

// What the message tells to do helps.
func TestObstacleRemedy(t *testing.T) {
	for _, hook := range []string{"forward", "input"} {
		m := newMachine(t)
		m.choose("nft")
		feed(t, "table inet fw { chain c { type filter hook "+hook+" priority 0; policy drop; }; }", "nft", "-f", "-")
		_, err := m.Ensure(wholeRunner)
		if err == nil {
			t.Fatalf("%s: no problem", hook)
		}
		_, remedy, _ := strings.Cut(err.Error(), "loaded from: ")
		for command := range strings.SplitSeq(remedy, "; ") {
			run(t, strings.Fields(command)...)
		}
		if _, err := m.Ensure(wholeRunner); err != nil {
			t.Errorf("%s: after %q: %v", hook, remedy, err)
		}
	}
}

// A problem that comes while the watch runs is found without being asked for, and
// goes when its cause does.
func TestObstacleComesAndGoes(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	m.ensure(wholeRunner, true)
	m.watch()
	run(t, "nft", "add table inet fw; add chain inet fw c { type filter hook forward priority 0; policy drop; }")
	m.eventually("it is found", func() bool { return m.problems() != nil })
	run(t, "nft", "delete", "table", "inet", "fw")
	m.eventually("it is over", func() bool { return m.problems() == nil })
}

func FuzzParseNFT(f *testing.F) {
	f.Add([]byte(`{"nftables": [{"chain": {"family": "inet", "table": "fw", "name": "f", "type": "filter", "hook": "forward", "policy": "drop"}},
		{"rule": {"family": "inet", "table": "fw", "chain": "f", "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": {"prefix": {"addr": "10.0.0.0", "len": 8}}}}, {"jump": {"target": "f"}}]}}]}`))
	f.Add([]byte(`{"nftables": [{"chain": {"family": "ip", "table": "t", "name": "i", "type": "filter", "hook": "input"}},
		{"rule": {"family": "ip", "table": "t", "chain": "i", "expr": [{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["new", {"goto": {"target": "i"}}]]}}}, {"reject": null}]}}]}`))
	f.Add([]byte(`{"nftables": [{"rule": null}, {"chain": {"hook": "input", "type": "filter", "family": "ip"}}, {"rule": {"expr": [{"xt": null}, {"match": {"op": "in", "left": {"meta": {"key": "iifname"}}, "right": [[[[[["a"]]]]]]}}]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := parseNFT(data)
		if err != nil {
			return
		}
		for _, r := range []Rules{wholeRunner, wholeHost, {}} {
			for _, text := range n.obstacles(r) {
				if text == "" {
					t.Error("an empty problem")
				}
			}
		}
	})
}
