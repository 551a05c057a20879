// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// pythonNames maps settings of the Python system that kohaku replaces to keys
// of ours, for people who carry their files over.
var pythonNames = map[string][]string{
	"HOST_BIND_IP":               {"host.bind"},
	"HOST_PORT":                  {"host.bind", "runner.host"},
	"HOST_ADDRESS":               {"runner.host"},
	"HOST_REACHABLE_ADDRESS":     {"host.reachable_address"},
	"LOG_LEVEL":                  {"host.log_level", "runner.log_level"},
	"OVERLAY_ENABLED":            {"overlay.enabled"},
	"OVERLAY_SUBNET":             {"overlay.subnet"},
	"OVERLAY_VXLAN_ID":           {"overlay.vxlan_id"},
	"OVERLAY_VXLAN_PORT":         {"overlay.vxlan_port"},
	"OVERLAY_MTU":                {"overlay.mtu"},
	"OVERLAY_NETWORK_NAME":       {"overlay.network_name"},
	"HEARTBEAT_INTERVAL_SECONDS": {"heartbeat.interval"},
	"HEARTBEAT_TIMEOUT_FACTOR":   {"heartbeat.timeout_factor"},
}

// unknownKey says that path, with value v, is not a key of s, and which one may
// have been meant.
func unknownKey(path toml.Key, v any, s schema) string {
	what, known := "key", keys(s.fields)
	if _, ok := v.(map[string]any); ok {
		what, known = "table", tables(s.fields)
	}
	msg := "is not a known " + what
	last := path[len(path)-1]
	for _, k := range pythonNames[last] {
		if slices.Contains(known, k) {
			return fmt.Sprintf("%s; here it is called %s", msg, k)
		}
	}
	key := path.String()
	others := keys(s.other())
	if what == "table" {
		others = tables(s.other())
	}
	if slices.Contains(others, key) {
		for _, kind := range []string{"host.toml", "runner.toml"} {
			if kind != s.kind {
				return fmt.Sprintf("%s of %s; it belongs in %s", msg, s.kind, kind)
			}
		}
	}
	if k := nearest(path, known); k != "" {
		return fmt.Sprintf("%s; did you mean %s?", msg, k)
	}
	parent := path[:len(path)-1].String()
	var here []string
	for _, k := range append(keys(s.fields), tables(s.fields)...) {
		if rest, ok := strings.CutPrefix(k, parent+"."); ok && parent != "" && !strings.Contains(rest, ".") {
			here = append(here, rest)
		} else if parent == "" && !strings.Contains(k, ".") {
			here = append(here, "["+k+"]")
		}
	}
	return fmt.Sprintf("%s; known here: %s", msg, strings.Join(here, ", "))
}

// nearest returns the known key that path was probably meant to be, or "": one
// whose last part differs in few letters or contains the other, rather in the
// same table than in another.
func nearest(path toml.Key, known []string) string {
	last, table := path[len(path)-1], path[:len(path)-1].String()
	// Longer names cannot be near, and the distance takes quadratic time.
	if len(last) > maxShown {
		return ""
	}
	limit := max(1, len(last)/3)
	best, least := "", 0
	for _, k := range known {
		dot := strings.LastIndexByte(k, '.')
		name := k[dot+1:]
		d := distance(last, name)
		if len(last) > 3 && (strings.Contains(name, last) || strings.Contains(last, name)) {
			d = min(d, limit)
		}
		if d > limit {
			continue
		}
		if table != k[:max(dot, 0)] {
			d++
		}
		if best == "" || d < least {
			best, least = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements that make b of a
// (Levenshtein), in letters without their case.
func distance(a, b string) int {
	s, t := []rune(strings.ToLower(a)), []rune(strings.ToLower(b))
	row := make([]int, len(t)+1)
	for j := range row {
		row[j] = j
	}
	for i, c := range s {
		diagonal := row[0]
		row[0] = i + 1
		for j, e := range t {
			cost := 1
			if c == e {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(t)]
}

func keys(fields []field) []string {
	var out []string
	for _, f := range fields {
		out = append(out, f.key)
	}
	return out
}

// tables returns the names of the tables that the fields are in.
func tables(fields []field) []string {
	var out []string
	for _, f := range fields {
		for i, c := range []byte(f.key) {
			if t := f.key[:i]; c == '.' && !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out
}
