// SPDX-License-Identifier: Apache-2.0

package conf

// A Setting is one key with its value.
type Setting struct {
	Key   string // dotted, such as "overlay.subnet"
	Value string // as TOML writes it; empty: left to the Host
}

// Settings lists all settings in the order of the file. Two files are equal when
// their lists are.
func (h *Host) Settings() []Setting { return settings(h.schema()) }

// Settings lists all settings in the order of the file.
func (r *Runner) Settings() []Setting { return settings(r.schema()) }

func settings(s schema) []Setting {
	all := make([]Setting, len(s.fields))
	for i, f := range s.fields {
		all[i] = Setting{f.key, f.show()}
	}
	return all
}
