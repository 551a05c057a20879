// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// render prints the fields of s as TOML with the origin of each value: a line
// of the file, the default, or neither when code has changed it since.
func render(s, defaults schema, src *source) []byte {
	if src == nil {
		src = &source{}
	}
	type row struct{ text, comment string }
	var rows []row
	table, width := "", 0
	for i, f := range s.fields {
		t, name, _ := strings.Cut(f.key, ".")
		if t != table {
			if table != "" {
				rows = append(rows, row{})
			}
			rows = append(rows, row{text: "[" + t + "]"})
			table = t
		}
		value := f.show()
		if value == "" {
			rows = append(rows, row{text: fmt.Sprintf("# %s: %s", name, f.unset)})
			continue
		}
		r := row{text: name + " = " + value}
		switch m, ok := src.at[f.key]; {
		case ok && m.value == value:
			r.comment = fmt.Sprintf("# from %s:%d", printable(src.file), m.line)
		case value == defaults.fields[i].show():
			r.comment = "# default"
		default:
			r.comment = "# set by the program"
		}
		width = max(width, utf8.RuneCountInString(r.text))
		rows = append(rows, r)
	}
	var b strings.Builder
	for _, r := range rows {
		if r.comment == "" {
			b.WriteString(r.text + "\n")
			continue
		}
		pad := min(width, 48) - utf8.RuneCountInString(r.text)
		b.WriteString(r.text + strings.Repeat(" ", max(pad, 0)) + "  " + r.comment + "\n")
	}
	return []byte(b.String())
}
