// SPDX-License-Identifier: Apache-2.0

// Package firewall keeps the overlay's iptables rules in place: forwarded traffic
// of the overlay is accepted before any other rule of the FORWARD chain looks at
// it, and on Runners what leaves the overlay is masqueraded.
//
// Every rule of ours carries the comment "kohaku". Rules without it are never
// touched.
package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// Comment marks our rules.
const Comment = "kohaku"

const (
	filterTable, forwardChain  = "filter", "FORWARD"
	natTable, postroutingChain = "nat", "POSTROUTING"
)

// ErrNoIPTables is matched by the error of a machine without the iptables program.
var ErrNoIPTables = errors.New("the iptables program is not installed")

// Rules is what a machine of the cluster needs.
type Rules struct {
	Overlay netip.Prefix
	// Masquerade hides the overlay's addresses from the outside; for Runners.
	Masquerade bool
}

// Firewall is this machine's iptables. The zero value is ready for use; it acts on
// the network namespace of the calling thread.
type Firewall struct{}

// chain is one place where rules of ours stand, in their order, at the top.
type chain struct {
	table, name string
	rules       [][]string
}

func (r Rules) chains() []chain {
	overlay := r.Overlay.Masked().String()
	forward := chain{table: filterTable, name: forwardChain, rules: [][]string{
		{"-s", overlay, "-m", "comment", "--comment", Comment, "-j", "ACCEPT"},
		{"-d", overlay, "-m", "comment", "--comment", Comment, "-j", "ACCEPT"},
	}}
	post := chain{table: natTable, name: postroutingChain}
	if r.Masquerade {
		post.rules = [][]string{
			{"-s", overlay, "!", "-d", overlay, "-m", "comment", "--comment", Comment, "-j", "MASQUERADE"},
		}
	}
	return []chain{forward, post}
}

// Ensure puts the rules at the top of their chains, in front of everybody else's,
// and removes rules of ours that belong to another configuration. It reports what
// it changed, one sentence each; nothing when all was in place.
func (Firewall) Ensure(r Rules) (changes []string, err error) {
	ipt, err := open()
	if err != nil {
		return nil, err
	}
	for _, c := range r.chains() {
		done, err := c.ensure(ipt)
		changes = append(changes, done...)
		if err != nil {
			return changes, err
		}
	}
	return changes, nil
}

// Remove deletes all rules of ours, whatever their configuration.
func (Firewall) Remove() (changes []string, err error) {
	ipt, err := open()
	if err != nil {
		return nil, err
	}
	for _, c := range []chain{{table: filterTable, name: forwardChain}, {table: natTable, name: postroutingChain}} {
		done, err := c.ensure(ipt)
		changes = append(changes, done...)
		if err != nil {
			return changes, err
		}
	}
	return changes, nil
}

func open() (*iptables.IPTables, error) {
	ipt, err := iptables.New(iptables.IPFamily(iptables.ProtocolIPv4), iptables.Timeout(5))
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%w: containers may be cut off by the FORWARD policy, and do not reach the outside "+
			"through their Runner (install the package iptables)", ErrNoIPTables)
	}
	if err != nil {
		return nil, fmt.Errorf("start iptables: %w", err)
	}
	return ipt, nil
}

func (c chain) ensure(ipt *iptables.IPTables) (changes []string, err error) {
	have, err := c.list(ipt)
	if err != nil {
		return nil, err
	}
	if c.inPlace(have) {
		return nil, nil
	}
	// A displaced rule is removed before it is put back on top. By its text, not by
	// its number: others may insert rules between our look and our change.
	for _, spec := range have {
		if !ours(spec) {
			continue
		}
		if err := ipt.Delete(c.table, c.name, spec...); err != nil && !notExist(err) {
			return changes, c.fail("remove", spec, err)
		}
		changes = append(changes, fmt.Sprintf("removed from %s: %s", c.name, strings.Join(spec, " ")))
	}
	for i, spec := range c.rules {
		if err := ipt.Insert(c.table, c.name, i+1, spec...); err != nil {
			return changes, c.fail("insert", spec, err)
		}
		changes = append(changes, fmt.Sprintf("inserted into %s at %d: %s", c.name, i+1, strings.Join(spec, " ")))
	}
	return changes, nil
}

// inPlace reports whether our rules stand at the top and nowhere else.
func (c chain) inPlace(have [][]string) bool {
	if len(have) < len(c.rules) {
		return false
	}
	for i, spec := range have {
		if i < len(c.rules) {
			if !slices.Equal(spec, c.rules[i]) {
				return false
			}
		} else if ours(spec) {
			return false
		}
	}
	return true
}

// list gives the chain's rules as arguments, in order.
func (c chain) list(ipt *iptables.IPTables) ([][]string, error) {
	lines, err := ipt.List(c.table, c.name)
	if err != nil {
		return nil, fmt.Errorf("list the firewall's %s chain: %w%s", c.name, err, hint(err))
	}
	var out [][]string
	for _, line := range lines {
		words := split(line)
		if len(words) > 2 && words[0] == "-A" && words[1] == c.name {
			out = append(out, words[2:])
		}
	}
	return out, nil
}

// ours reports whether the rule carries exactly our comment.
func ours(spec []string) bool {
	i := slices.Index(spec, "--comment")
	return i >= 0 && i+1 < len(spec) && spec[i+1] == Comment
}

func (c chain) fail(op string, spec []string, err error) error {
	return fmt.Errorf("%s the firewall rule %q in chain %s: %w%s", op, strings.Join(spec, " "), c.name, err, hint(err))
}

func hint(err error) string {
	if strings.Contains(err.Error(), "ermission denied") {
		return " (run as root, or with CAP_NET_ADMIN)"
	}
	return ""
}

func notExist(err error) bool {
	e, ok := errors.AsType[*iptables.Error](err)
	return ok && e.IsNotExist()
}

// split takes a line of `iptables -S` apart. Quotes hold a word with spaces
// together; a backslash keeps the next character as it is
// (xtables_save_string in iptables' libxtables/xtables.c).
func split(line string) []string {
	var words []string
	var word strings.Builder
	inWord, quoted := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			inWord = true
		case c == '"':
			quoted, inWord = !quoted, true
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}
