// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// VXLAN is let in where it would be dropped, in front of what would drop it, and
// where nobody else has a say about it.
func TestInput(t *testing.T) {
	const peerRule = "-A INPUT -s 192.0.2.1/32 -p udp -m udp --dport 4789 -m comment --comment kohaku -j ACCEPT"
	peer := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		name  string
		rules string // of the filter table, for iptables-restore
		peer  netip.Addr
		want  []string
	}{
		{"open", ":INPUT ACCEPT\n-A INPUT -s 198.51.100.1/32 -j DROP\n-A INPUT -p tcp -m tcp --dport 111 -j REJECT",
			netip.Addr{}, []string{"-A INPUT -s 198.51.100.1/32 -j DROP", "-A INPUT -p tcp -m tcp --dport 111 -j REJECT --reject-with icmp-port-unreachable"}},
		{"policy", ":INPUT DROP\n-A INPUT -s 198.51.100.1/32 -j DROP", netip.Addr{}, []string{"-A INPUT -s 198.51.100.1/32 -j DROP", vxlanRule}},
		{"one peer", ":INPUT DROP", peer, []string{peerRule}},
		{"IPv6 peer", ":INPUT DROP", netip.MustParseAddr("fd00::1"), nil},
		{"reject at the end", ":INPUT ACCEPT\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited",
			netip.Addr{}, []string{"-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", vxlanRule, "-A INPUT -j REJECT --reject-with icmp-host-prohibited"}},
		{"new ones", ":INPUT ACCEPT\n-A INPUT -m conntrack --ctstate INVALID -j DROP\n-A INPUT -p udp -m conntrack --ctstate NEW -j DROP",
			netip.Addr{}, []string{"-A INPUT -m conntrack --ctstate INVALID -j DROP", vxlanRule, "-A INPUT -p udp -m conntrack --ctstate NEW -j DROP"}},
		{"in another chain", ":INPUT ACCEPT\n:guard -\n:inner -\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j guard\n-A guard -p tcp -j RETURN\n-A guard -j inner\n-A inner -j DROP",
			netip.Addr{}, []string{"-A INPUT -i lo -j ACCEPT", vxlanRule, "-A INPUT -j guard"}},
		{"a chain that returns", ":INPUT ACCEPT\n:guard -\n-A INPUT -j guard\n-A guard -j RETURN\n-A guard -j DROP", netip.Addr{}, []string{"-A INPUT -j guard"}},
		{"accepted anyway", ":INPUT DROP\n-A INPUT -j ACCEPT", netip.Addr{}, []string{"-A INPUT -j ACCEPT"}},
		{"the admin's own word", ":INPUT DROP\n:vpn -\n-A INPUT -j vpn\n-A vpn -s 192.0.2.0/24 -p udp -m udp --dport 4789 -j ACCEPT", netip.Addr{}, []string{"-A INPUT -j vpn"}},
		{"the admin's own list", ":INPUT DROP\n-A INPUT -p udp -m multiport --dports 53,4780:4790 -j ACCEPT",
			netip.Addr{}, []string{"-A INPUT -p udp -m multiport --dports 53,4780:4790 -j ACCEPT"}},
		{"ufw's way", ":INPUT DROP\n:ufw-before-input -\n:ufw-not-local -\n-A INPUT -j ufw-before-input\n-A ufw-before-input -j ufw-not-local\n" +
			"-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN\n-A ufw-not-local -m limit --limit 3/min -j LOG",
			netip.Addr{}, []string{"-A INPUT -j ufw-before-input", vxlanRule}},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(m *machine, iptables string) {
				feed(m.t, "*filter\n"+addCounters(c.rules)+"\nCOMMIT\n", iptables+"-restore")
				r := runner
				r.Port, r.Peer = 4789, c.peer
				for range 2 { // the second time nothing is to do
					if _, err := m.Ensure(r); err != nil {
						m.t.Fatal(err)
					}
					if diff := cmp.Diff(c.want, rules(m.t, iptables, "filter", "INPUT"), cmpopts.EquateEmpty()); diff != "" {
						m.t.Errorf("INPUT (-want +got):\n%s", diff)
					}
				}
				m.ensure(r, false)
				// The admin opens the machine: our rule is not needed any more.
				run(m.t, iptables, "-F", "INPUT")
				run(m.t, iptables, "-P", "INPUT", "ACCEPT")
				if _, err := m.Ensure(r); err != nil {
					m.t.Fatal(err)
				}
				compare(m.t, iptables, "filter", "INPUT")
				if n := len(m.Report().Events); n != 0 {
					m.t.Errorf("events %v", m.Report().Events)
				}
			})
		})
	}
}

// addCounters completes chain lines as iptables-restore wants them.
func addCounters(rules string) string {
	lines := strings.Split(rules, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ":") {
			lines[i] += " [0:0]"
		}
	}
	return strings.Join(lines, "\n")
}

// An IPv6 underlay has its own filter.
func TestInputIPv6(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	run(t, "ip6tables-nft", "-P", "INPUT", "DROP")
	r := runner
	r.Port, r.Peer = 4789, netip.MustParseAddr("fd00::1")
	m.ensure(r, true)
	compare(t, "ip6tables-nft", "filter", "INPUT", "-A INPUT -s fd00::1/128 -p udp -m udp --dport 4789 -m comment --comment kohaku -j ACCEPT")
	compare(t, "iptables-nft", "filter", "INPUT")
	m.watch()
	run(t, "ip6tables-nft", "-F")
	if e := m.event(1); !strings.Contains(e.Lost, "ip6tables-nft INPUT") {
		t.Errorf("event %+v", e)
	}
	// Dropped by nobody any more, it is not wanted.
	run(t, "ip6tables-nft", "-P", "INPUT", "ACCEPT")
	m.eventually("the rule is gone", func() bool { return len(rules(t, "ip6tables-nft", "filter", "INPUT")) == 0 })
}

// Somebody who puts rules in front of ours in INPUT only disturbs it if these drop.
func TestInputPlace(t *testing.T) {
	m := newMachine(t)
	m.choose("nft")
	run(t, "iptables-nft", "-P", "INPUT", "DROP")
	r := runner
	r.Port = 4789
	m.ensure(r, true)
	run(t, "iptables-nft", "-I", "INPUT", "-s", "203.0.113.5", "-j", "DROP") // as fail2ban does
	run(t, "iptables-nft", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
	m.ensure(r, false)
	run(t, "iptables-nft", "-I", "INPUT", "-p", "udp", "-j", "DROP")
	m.ensure(r, true)
	if got := rules(t, "iptables-nft", "filter", "INPUT"); got[0] != vxlanRule {
		t.Errorf("INPUT %q", got)
	}
	if e := m.event(1); e.What != "displaced" {
		t.Errorf("event %+v", e)
	}
}
