// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

func itoa(n int) string { return strconv.Itoa(n) }

// inputWish is our rule in INPUT: VXLAN is let in where it would be dropped. The
// rule stands just in front of what would drop it, so that everything else that the
// admin wrote, a list of banned addresses say, is asked first. Where a rule of
// somebody else speaks of the very port, it is the admin's business and ours is not
// wanted. A zero family means no rule.
func inputWish(r Rules, v6 bool, have chains) wish {
	w := wish{table: filterTable, chain: inputChain, notAfter: true}
	if r.Port == 0 || r.Peer.IsValid() && r.Peer.Is6() != v6 || spokenOf(have, r.Port) {
		return w
	}
	at, blocked := blockedAt(have)
	if !blocked {
		return w
	}
	w.at = at
	var spec []string
	if r.Peer.IsValid() {
		spec = append(spec, "-s", netip.PrefixFrom(r.Peer, r.Peer.BitLen()).String())
	}
	w.rules = [][]string{append(spec, "-p", "udp", "-m", "udp", "--dport", itoa(int(r.Port)),
		"-m", "comment", "--comment", Comment, "-j", "ACCEPT")}
	return w
}

// spokenOf reports whether a rule of somebody else, outside FORWARD, names the UDP
// port.
func spokenOf(have chains, port uint16) bool {
	for name, rules := range have.rules {
		if name == forwardChain || name == "OUTPUT" {
			continue
		}
		for _, spec := range rules {
			if ours(spec) || value(spec, "-p") != "udp" {
				continue
			}
			if i := max(slices.Index(spec, "--dport"), slices.Index(spec, "--dports")); i > 0 && i+1 < len(spec) &&
				spec[i-1] != "!" && portIn(spec[i+1], port) {
				return true
			}
		}
	}
	return false
}

// portIn reports whether a list of ports and ranges, "22,4000:5000", names a port.
// A range that is nearly all of them names none.
func portIn(list string, port uint16) bool {
	for item := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(item, ":")
		if !isRange {
			high = low
		}
		from, err := strconv.Atoi(low)
		if low != "" && err != nil {
			continue
		}
		to, err := strconv.Atoi(high)
		if err != nil {
			to = 65535
		}
		if from <= int(port) && int(port) <= to && to-from < 32768 {
			return true
		}
	}
	return false
}

// blockedAt finds what would drop VXLAN in INPUT: the number of others' rules before
// it, which is that of all of them when it is the policy.
func blockedAt(have chains) (at int, blocked bool) {
	for _, spec := range have.rules[inputChain] {
		if ours(spec) {
			continue
		}
		switch have.fate(spec, 0) {
		case fateDrop:
			return at, true
		case fateAccept:
			return 0, false
		}
		at++
	}
	policy := have.policy[inputChain]
	return at, policy != "" && policy != "ACCEPT"
}

// fate is what a rule does to VXLAN from just any machine.
type fate int

const (
	fateNone fate = iota // nothing, or only to some of it
	fateDrop
	fateAccept
)

// maxJumps bounds how deep chains are followed; the kernel allows 16 by default.
const maxJumps = 16

func (c chains) fate(spec []string, depth int) fate {
	target := value(spec, "-j")
	if target == "" {
		target = value(spec, "-g")
	}
	if target == "ACCEPT" && matchesAll(spec, false) {
		return fateAccept
	}
	if !matchesAll(spec, true) {
		return fateNone
	}
	if target == "DROP" || target == "REJECT" {
		return fateDrop
	}
	rules, ok := c.rules[target]
	if !ok || depth >= maxJumps {
		return fateNone
	}
	for _, inner := range rules {
		if value(inner, "-j") == "RETURN" && matchesAll(inner, false) {
			return fateNone
		}
		if f := c.fate(inner, depth+1); f != fateNone {
			return f
		}
	}
	return fateNone
}

// matchesAll reports whether nothing in the rule's match spares VXLAN. With devices
// set, a rule for one device counts too: it may be the underlay's.
func matchesAll(spec []string, devices bool) bool {
	for i := 0; i < len(spec); i++ {
		switch spec[i] {
		case "-j", "-g":
			return true // what follows belongs to the target
		case "--comment":
			i++
		case "-m":
			if i++; i < len(spec) && spec[i] != "comment" && spec[i] != "udp" && spec[i] != "conntrack" && spec[i] != "state" {
				return false
			}
		case "-p":
			if i++; i < len(spec) && spec[i] != "udp" && spec[i] != "all" {
				return false
			}
		case "-i":
			if i++; !devices || i < len(spec) && spec[i] == "lo" {
				return false
			}
		case "--ctstate", "--state":
			if i++; i < len(spec) && !slices.Contains(strings.Split(spec[i], ","), "NEW") {
				return false
			}
		default:
			return false
		}
	}
	return true
}
