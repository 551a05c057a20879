// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// source remembers where the values of a settings file came from.
type source struct {
	file string
	at   map[string]mark // by dotted key
}

// mark is a key's line in the file and its value as it was then.
type mark struct {
	line  int
	value string
}

// maxProblems bounds how many unknown keys of a file are reported one by one.
const maxProblems = 50

// decode reads data into the fields of s. Keys that are absent keep the value
// that they have.
func decode(name string, data []byte, s schema) (*source, error) {
	doc, problem := parseTOML(data)
	if problem != nil {
		return nil, &Error{File: name, Problems: []Problem{*problem}}
	}
	d := decoder{schema: s, document: doc, src: &source{file: name, at: map[string]mark{}}, bad: map[string]bool{}}
	d.fields = map[string]field{}
	d.tables = map[string]bool{}
	for _, f := range s.fields {
		d.fields[f.key] = f
		for table := f.key; strings.Contains(table, "."); {
			table = table[:strings.LastIndexByte(table, '.')]
			d.tables[table] = true
		}
	}
	d.table(nil, doc.root)
	if d.unknown > maxProblems {
		d.report(0, "", "", fmt.Sprintf("%d more keys that are not known", d.unknown-maxProblems))
	}
	d.validate()
	return d.src, d.error(name)
}

// validate judges settings that did not come from a file.
func validate(name string, s schema) error {
	d := decoder{schema: s, src: &source{}, bad: map[string]bool{}}
	for _, f := range s.fields {
		if err := f.check(); err != nil {
			d.report(0, f.key, shorten(f.show()), err.Error())
		}
	}
	d.validate()
	return d.error(name)
}

type decoder struct {
	schema   schema
	document *document
	fields   map[string]field
	tables   map[string]bool
	src      *source
	bad      map[string]bool // keys with a problem of their own
	unknown  int
	problems []Problem
}

// table decodes the keys of one table. Its name is short: a table of unknown
// name is not descended into.
func (d *decoder) table(path toml.Key, t map[string]toml.Primitive) {
	for _, name := range d.document.inOrder(path, t) {
		path := append(slices.Clip(path), name)
		key := path.String()
		f, isField := d.fields[key]
		if !isField && !d.tables[key] {
			// Asking for a position costs a pass over the file, so the number of
			// times is bounded.
			if d.unknown++; d.unknown <= maxProblems {
				v, line := d.document.value(path, t[name])
				d.report(line, printable(shorten(key)), literal(v), unknownKey(path, v, d.schema))
			}
			continue
		}
		v, line := d.document.value(path, t[name])
		if isField {
			if err := f.decode(v); err != nil {
				d.report(line, key, literal(v), err.Error())
				continue
			}
			d.src.at[key] = mark{line, f.show()}
			continue
		}
		sub, err := d.document.sub(t[name], v)
		if err != nil {
			d.report(line, key, literal(v), fmt.Sprintf("must be a table, [%s]", key))
			for k := range d.fields {
				d.bad[k] = d.bad[k] || strings.HasPrefix(k, key+".")
			}
			continue
		}
		d.table(path, sub)
	}
}

// validate judges what is absent and what must fit together.
func (d *decoder) validate() {
	for _, f := range d.schema.fields {
		if err := f.check(); err != nil && !d.bad[f.key] {
			d.report(0, f.key, "", err.Error())
		}
	}
	for _, r := range d.schema.rules {
		if slices.ContainsFunc(r.keys, func(k string) bool { return d.bad[k] }) {
			continue
		}
		if err := r.check(); err != nil {
			key := r.keys[0]
			d.report(d.src.at[key].line, key, d.show(key), err.Error())
		}
	}
}

func (d *decoder) show(key string) string {
	for _, f := range d.schema.fields {
		if f.key == key {
			return shorten(f.show())
		}
	}
	return ""
}

func (d *decoder) report(line int, key, value, msg string) {
	d.bad[key] = true
	d.problems = append(d.problems, Problem{Line: line, Key: key, Value: value, Msg: msg})
}

// error returns the problems in the order of the file, what has no line last.
func (d *decoder) error(name string) error {
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		if (a.Line == 0) != (b.Line == 0) {
			return b.Line - a.Line
		}
		return a.Line - b.Line
	})
	return &Error{File: name, Problems: d.problems}
}

// literal shows a value for a message.
func literal(v any) string {
	switch v := v.(type) {
	case string:
		return shorten(tomlString(v))
	case time.Time:
		return v.Format(time.RFC3339)
	case map[string]any:
		return "{...}"
	case []any, []map[string]any:
		return "[...]"
	default:
		return fmt.Sprint(v)
	}
}
