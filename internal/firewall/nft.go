// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"encoding/json"
	"fmt"
	"slices"
)

// nftRules is what `nft --json list ruleset` prints, as far as it is needed here
// (libnftables-json(5)).
type nftRules struct {
	chains []*nftChain
	rules  map[chainID][]nftRule
}

type chainID struct{ family, table, name string }

type nftChain struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	Hook   string `json:"hook"`
	Policy string `json:"policy"`
}

func (c *nftChain) id() chainID { return chainID{c.Family, c.Table, c.Name} }

type nftRule struct {
	Family string            `json:"family"`
	Table  string            `json:"table"`
	Chain  string            `json:"chain"`
	Expr   []json.RawMessage `json:"expr"`
}

func parseNFT(data []byte) (*nftRules, error) {
	var doc struct {
		Objects []struct {
			Chain *nftChain `json:"chain"`
			Rule  *nftRule  `json:"rule"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("read what nft lists: %w", err)
	}
	n := &nftRules{rules: make(map[chainID][]nftRule)}
	for _, o := range doc.Objects {
		switch {
		case o.Chain != nil:
			n.chains = append(n.chains, o.Chain)
		case o.Rule != nil:
			id := chainID{o.Rule.Family, o.Rule.Table, o.Rule.Chain}
			n.rules[id] = append(n.rules[id], *o.Rule)
		}
	}
	return n, nil
}

// base gives the filter chains for one IP version at a hook.
func (n *nftRules) base(hook string, v6 bool) []*nftChain {
	families := []string{"ip", "inet"}
	if v6 {
		families[0] = "ip6"
	}
	var out []*nftChain
	for _, c := range n.chains {
		if c.Hook == hook && c.Type == "filter" && slices.Contains(families, c.Family) {
			out = append(out, c)
		}
	}
	return out
}

// A rule's expressions, one key each.
type (
	nftStatement map[string]json.RawMessage

	nftMatch struct {
		Op    string          `json:"op"`
		Left  json.RawMessage `json:"left"`
		Right json.RawMessage `json:"right"`
	}

	nftVMap struct {
		Key  json.RawMessage `json:"key"`
		Data json.RawMessage `json:"data"`
	}

	nftXT struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}
)
