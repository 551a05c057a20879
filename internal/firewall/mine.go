// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Mine lists what Remove would remove, one sentence each, and changes nothing.
func (f *Firewall) Mine(ctx context.Context) (rules []string, err error) {
	t, z := newTables(), newZones()
	defer z.close()
	var errs []error
	failed := f.namespace.do(func() {
		for _, list := range []func(context.Context) ([]string, error){t.mine, z.mine} {
			some, err := list(ctx)
			rules = append(rules, some...)
			errs = append(errs, err)
		}
	})
	return rules, joinSentences(append(errs, failed))
}

func (t *tables) mine(ctx context.Context) (rules []string, err error) {
	t.programs(ctx)
	var errs []error
	for _, p := range slices.Concat(t.v4, t.v6) {
		for _, table := range []string{filterTable, natTable} {
			if p.v6 && (table == natTable || !hasIPv6()) || !p.touched(table) {
				continue
			}
			have, err := p.list(ctx, table)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, chain := range slices.Sorted(maps.Keys(have.rules)) {
				for _, spec := range have.rules[chain] {
					if ours(spec) {
						rules = append(rules, place(p, chain, spec))
					}
				}
			}
		}
	}
	return rules, joinSentences(errs)
}

func (z *zones) mine(ctx context.Context) (rules []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	if ok, err := z.attach(ctx); !ok {
		return nil, err
	}
	devices, err := z.bus.interfaces(ctx, trustedZone)
	if err != nil {
		return nil, fmt.Errorf("ask firewalld: %w", err)
	}
	for _, d := range devices {
		if overlayDevice(d) {
			rules = append(rules, fmt.Sprintf("firewalld's zone %s: device %s", trustedZone, d))
		}
	}
	names, err := z.bus.zoneNames(ctx)
	if err != nil {
		return rules, fmt.Errorf("ask firewalld: %w", err)
	}
	for _, zone := range names {
		all, err := z.bus.richRules(ctx, zone)
		if err != nil {
			return rules, fmt.Errorf("ask firewalld: %w", err)
		}
		for _, rule := range all {
			if strings.HasPrefix(rule, richPriority) {
				rules = append(rules, fmt.Sprintf("firewalld's zone %s: %s", zone, rule))
			}
		}
	}
	return rules, nil
}
