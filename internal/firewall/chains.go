// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"slices"
	"strings"
)

const (
	filterTable, natTable                      = "filter", "nat"
	forwardChain, inputChain, postroutingChain = "FORWARD", "INPUT", "POSTROUTING"
)

// chains is one table of iptables as `iptables -S` lists it.
type chains struct {
	policy map[string]string     // of built-in chains
	rules  map[string][][]string // of all chains: arguments, in order
}

func parseChains(listing string) chains {
	c := chains{policy: make(map[string]string), rules: make(map[string][][]string)}
	for line := range strings.Lines(listing) {
		words := split(strings.TrimSpace(line))
		if len(words) < 2 {
			continue
		}
		switch name := words[1]; words[0] {
		case "-P":
			if len(words) > 2 {
				c.policy[name] = words[2]
			}
			c.rules[name] = nil
		case "-N":
			c.rules[name] = nil
		case "-A":
			c.rules[name] = append(c.rules[name], words[2:])
		}
	}
	return c
}

// foreign reports whether somebody else decides anything here.
func (c chains) foreign() bool {
	for _, p := range c.policy {
		if p != "ACCEPT" {
			return true
		}
	}
	for _, rules := range c.rules {
		if slices.ContainsFunc(rules, func(spec []string) bool { return !ours(spec) }) {
			return true
		}
	}
	return false
}

// ours reports whether the rule carries exactly our comment.
func ours(spec []string) bool { return value(spec, "--comment") == Comment }

// value is the word after an option, empty when the option is not there.
func value(spec []string, option string) string {
	if i := slices.Index(spec, option); i >= 0 && i+1 < len(spec) {
		return spec[i+1]
	}
	return ""
}

// wish is what one chain should hold of ours.
type wish struct {
	table, chain string
	rules        [][]string
	// at is where they stand: the number of others' rules before them. Where
	// notAfter is set, anywhere before is as good.
	at       int
	notAfter bool
}

// verdict of a comparison of one chain with its wish.
type difference struct {
	missing   [][]string // wanted and not there
	displaced [][]string // there, not where they are wanted
	stale     [][]string // ours and not wanted
}

func (d difference) none() bool { return len(d.missing)+len(d.displaced)+len(d.stale) == 0 }

// compare looks at a chain.
func (w wish) compare(have [][]string) (d difference) {
	var found [][]string
	before := 0 // others' rules in front of the last one found
	straight := true
	others := 0
	for _, spec := range have {
		switch {
		case !ours(spec):
			others++
		case len(found) < len(w.rules) && slices.Equal(spec, w.rules[len(found)]):
			if len(found) > 0 && others != before {
				straight = false
			}
			before = others
			found = append(found, spec)
		default:
			d.stale = append(d.stale, spec)
		}
	}
	if len(found) == len(w.rules) {
		if len(found) > 0 && (!straight || before > w.at || before < w.at && !w.notAfter) {
			d.displaced = found
		}
		return d
	}
	// Some are missing, or in another order: all are put in anew.
	for _, spec := range w.rules {
		if i := slices.IndexFunc(d.stale, func(s []string) bool { return slices.Equal(s, spec) }); i >= 0 {
			d.stale = slices.Delete(d.stale, i, i+1)
			d.displaced = append(d.displaced, spec)
		} else if slices.ContainsFunc(found, func(s []string) bool { return slices.Equal(s, spec) }) {
			d.displaced = append(d.displaced, spec)
		} else {
			d.missing = append(d.missing, spec)
		}
	}
	return d
}

// script is what turns the chain into the wish, for iptables-restore --noflush.
// Rules go by their text, not by their number: others may change the chain between
// our look and our change.
func (w wish) script(d difference) string {
	if d.none() {
		return ""
	}
	var b strings.Builder
	for _, spec := range slices.Concat(d.stale, d.displaced) {
		b.WriteString("-D " + w.chain + " " + strings.Join(spec, " ") + "\n")
	}
	for i, spec := range w.rules {
		b.WriteString("-I " + w.chain + " " + itoa(w.at+i+1) + " " + strings.Join(spec, " ") + "\n")
	}
	return b.String()
}
