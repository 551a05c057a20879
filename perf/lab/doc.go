// SPDX-License-Identifier: Apache-2.0

// Package lab compares data paths on one machine, in private namespaces: the
// same workloads over plain veth, the kernel's VXLAN, ours, and whatever other
// tunnel program is installed, in alternation and over several rounds.
//
//	one hop:   runner1 ---- switch ---- runner2
//	hub:       runner1 ---- switch ---- host (routes) ---- switch ---- runner2
//
// Every machine is a network namespace, and in each runs one process of this
// program, an agent, that generates and answers load; our data plane runs in
// agents of its own, one for each machine, as it does on real ones. All data
// paths stand side by side, each with its own device and addresses, so that
// changing from one to the next costs nothing and the machine's mood is the same
// for all.
//
// Measurements are short and many. In a round the data paths take turns, some tens
// of milliseconds each, on connections that stay (see turn.go), and a ratio is
// taken within each round: so what slows the whole machine, for a tenth of a second
// or for minutes, cancels out. A value is the median over the rounds; of the rounds'
// ratios the centre is given and its confidence interval (see centre), and measuring
// goes on so that all become equally narrow (see plan). Connections are made anew for each round,
// as where threads, queues and hashes happen to fall is part of what varies. Every
// machine has processors of its own (see place). All benches, topologies in
// profiles, take turns over the whole run, and what was measured while a virtual
// machine's processors were far from one another does not count (see distance).
package lab

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Topologies, by the names that select them.
const (
	Hop = "hop" // two machines
	Hub = "hub" // two machines and one between that routes
)

// Profiles, by the names that select them. See package internal/lab.
const (
	Offload = "offload"
	Wire    = "wire"
)

// The data paths that are always there. Others are external programs.
const (
	Veth      = "veth"      // no tunnel: the limit
	Kernel    = "kernel"    // the kernel's VXLAN device: the reference
	Userspace = "userspace" // ours
)

// choose checks a person's selection against what there is and gives it in the
// order of all; an empty selection is all.
func choose(what string, all, wanted []string) ([]string, error) {
	if len(wanted) == 0 {
		return all, nil
	}
	var out []string
	for _, w := range wanted {
		if !slices.Contains(all, w) {
			return nil, fmt.Errorf("%s %q is not known; there are %s", what, w, strings.Join(all, ", "))
		}
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Compare(slices.Index(all, a), slices.Index(all, b))
	})
	return out, nil
}
