// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"encoding/json"
	"fmt"
)

// outcome is what becomes of a packet in a chain, as far as it can be told.
type outcome int

const (
	goesOn  outcome = iota // to the next rule
	isDone                 // returned: to the rule after the jump
	passes                 // accepted
	dies                   // dropped or rejected
	unclear                // it depends on what is not known here
)

// follower takes one packet through chains.
type follower struct {
	rules *nftRules
	p     packet
	why   string // what dropped it
	steps int
}

const (
	maxDepth = 16
	maxSteps = 20000 // rules; a ruleset that takes more is left undecided
)

// drops reports whether a base chain drops the packet for certain, and what in it
// does.
func (n *nftRules) drops(c *nftChain, p packet) (why string, ok bool) {
	f := &follower{rules: n, p: p}
	switch f.chain(c.id(), 0) {
	case dies:
		return f.why, true
	case goesOn, isDone:
		if c.Policy == "drop" {
			return "its policy is drop", true
		}
	}
	return "", false
}

func (f *follower) chain(id chainID, depth int) outcome {
	if depth > maxDepth {
		return unclear
	}
	for _, r := range f.rules.rules[id] {
		if f.steps++; f.steps > maxSteps {
			return unclear
		}
		switch o := f.rule(r, id, depth); o {
		case goesOn:
		case isDone:
			return goesOn
		default:
			return o
		}
	}
	return goesOn
}

// rule takes the packet through one rule. A drop that may or may not apply is passed
// over: only what is certain is reported.
func (f *follower) rule(r nftRule, id chainID, depth int) outcome {
	applies := yes
	for _, raw := range r.Expr {
		var s nftStatement
		if json.Unmarshal(raw, &s) != nil || len(s) != 1 {
			applies = min(applies, maybe)
			continue
		}
		for kind, body := range s {
			switch kind {
			case "match":
				applies = min(applies, f.p.match(body))
			case "counter", "log", "comment", "notrack", "mangle", "ct helper", "set", "dup", "flow":
			case "xt":
				var x nftXT
				if json.Unmarshal(body, &x) != nil || x.Type != "target" && x.Name != "comment" {
					applies = min(applies, maybe)
				}
				if x.Type == "target" && x.Name == "REJECT" && applies == yes {
					f.why = "a reject rule"
					return dies
				}
			case "vmap":
				var m nftVMap
				if json.Unmarshal(body, &m) != nil {
					return unclear
				}
				verdict, hit := f.p.lookup(m)
				if hit = min(hit, applies); hit == no {
					continue
				}
				if o := f.verdict(verdict, hit, id, depth); o != goesOn {
					return o
				}
			case "accept", "drop", "reject", "return", "jump", "goto", "continue", "queue":
				return f.verdict(s, applies, id, depth)
			default: // limit, quota, connlimit, fib, and what comes in later versions
				applies = min(applies, maybe)
			}
			if applies == no {
				return goesOn
			}
		}
	}
	return goesOn
}

// verdict applies what a rule or a map says.
func (f *follower) verdict(s nftStatement, applies truth, id chainID, depth int) outcome {
	if applies == no {
		return goesOn
	}
	for kind, body := range s {
		switch kind {
		case "continue":
			return goesOn
		case "drop", "reject":
			if applies == maybe {
				return goesOn
			}
			f.why = "a " + kind + " rule"
			if kind == "reject" {
				var how struct {
					Expr string `json:"expr"`
				}
				if json.Unmarshal(body, &how) == nil && how.Expr != "" {
					f.why = fmt.Sprintf("a rule that rejects with %s", how.Expr)
				}
			}
			return dies
		case "return":
			if applies == maybe {
				return unclear
			}
			return isDone
		case "jump", "goto":
			var to struct {
				Target string `json:"target"`
			}
			if json.Unmarshal(body, &to) != nil {
				return unclear
			}
			why := f.why
			o := f.chain(chainID{id.family, id.table, to.Target}, depth+1)
			switch {
			case applies == maybe && o == dies, applies == maybe && o == goesOn && kind == "jump":
				f.why = why
				return goesOn
			case applies == maybe:
				return unclear
			case o == goesOn && kind == "goto":
				return isDone
			}
			return o
		case "accept":
			if applies == maybe {
				return unclear
			}
			return passes
		}
	}
	return unclear
}
