// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// document is a parsed TOML file.
type document struct {
	text string
	meta toml.MetaData
	root map[string]toml.Primitive
	rank map[string]int // order of appearance, by dotted key of at most maxDepth parts
}

// maxDepth bounds the depth to which the line of an implied table is looked for.
// The deepest known key, engine.offloads.tso, has 3 parts.
const maxDepth = 8

// parseTOML parses data, which may begin with a byte order mark.
func parseTOML(data []byte) (doc *document, problem *Problem) {
	if len(data) > maxFile {
		return nil, &Problem{Msg: fmt.Sprintf("is larger than %d bytes, so it is not a settings file", maxFile)}
	}
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		return nil, &Problem{Line: 1, Msg: "is UTF-16 text; TOML is UTF-8, so save it as UTF-8"}
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if p := tooDeep(data); p != nil {
		return nil, p
	}
	defer func() {
		// The parser turns most of its panics into errors, but not the ones it
		// takes for bugs of its own. A file must not bring a daemon down.
		if r := recover(); r != nil {
			doc, problem = nil, &Problem{Msg: "is not TOML: the parser gave up: " + printable(fmt.Sprint(r))}
		}
	}()
	doc = &document{text: string(data), root: map[string]toml.Primitive{}, rank: map[string]int{}}
	var err error
	if doc.meta, err = toml.Decode(doc.text, &doc.root); err != nil {
		return nil, syntaxProblem(doc, err)
	}
	for i, k := range doc.meta.Keys() {
		for n := 1; n <= min(len(k), maxDepth); n++ {
			s := k[:n].String()
			if _, ok := doc.rank[s]; !ok {
				doc.rank[s] = i
			}
		}
	}
	return doc, nil
}

func syntaxProblem(doc *document, err error) *Problem {
	var pe toml.ParseError
	if !errors.As(err, &pe) {
		return &Problem{Msg: "is not TOML: " + printable(err.Error())}
	}
	p := &Problem{Line: pe.Position.Line, Msg: "is not TOML: " + printable(shorten(pe.Message))}
	// The offset is not always that of the line; then there is no column.
	if at := pe.Position.Start; at >= 0 && at <= len(doc.text) && doc.line(at) == p.Line {
		p.Column = at - strings.LastIndexByte(doc.text[:at], '\n')
	}
	if pe.LastKey != "" && !strings.Contains(pe.Message, pe.LastKey) {
		p.Msg += " (behind key " + printable(shorten(pe.LastKey)) + ")"
	}
	return p
}

// inOrder returns the keys of t, the table at path, as they appear in the file.
func (d *document) inOrder(path toml.Key, t map[string]toml.Primitive) []string {
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	rank := func(name string) int { return d.rank[append(slices.Clip(path), name).String()] }
	slices.SortFunc(names, func(a, b string) int {
		if ra, rb := rank(a), rank(b); ra != rb {
			return ra - rb
		}
		return strings.Compare(a, b)
	})
	return names
}

// value returns the value at path and its line. The TOML package keeps the
// position of every value to itself, but puts it into the error when a value's
// own unmarshaler refuses; so one is asked to, which gives the true position
// for every way to write a key. A table that is only implied, as a is by
// "a.b = 1", has the line of its first key.
func (d *document) value(path toml.Key, p toml.Primitive) (v any, line int) {
	var r refuser
	err := d.meta.PrimitiveDecode(p, &r)
	var pe toml.ParseError
	if errors.As(err, &pe) && pe.Position.Line > 0 {
		return r.v, d.line(pe.Position.Start)
	}
	if t, ok := r.v.(map[string]any); ok && len(t) > 0 && len(path) < maxDepth {
		if sub, err := d.sub(p, r.v); err == nil {
			name := d.inOrder(path, sub)[0]
			_, line = d.value(append(slices.Clip(path), name), sub[name])
		}
	}
	return r.v, line
}

// line returns the line of a byte offset. The line in the TOML package's
// position is not used: for a multi-line string it is that of the end.
func (d *document) line(offset int) int {
	return 1 + strings.Count(d.text[:min(max(offset, 0), len(d.text))], "\n")
}

// sub returns the table in p, whose value is v.
func (d *document) sub(p toml.Primitive, v any) (map[string]toml.Primitive, error) {
	if _, ok := v.(map[string]any); !ok {
		return nil, errors.New("not a table")
	}
	t := map[string]toml.Primitive{}
	return t, d.meta.PrimitiveDecode(p, &t)
}

// refuser takes any TOML value and refuses it.
type refuser struct{ v any }

func (r *refuser) UnmarshalTOML(v any) error {
	r.v = v
	return errors.New("refused")
}

// Bounds of nesting, far above what settings need. The TOML package takes time
// that grows faster than the square of a key's depth, half a minute for 64 KiB
// of dots, and recurses into brackets until the stack is full, which no recover
// catches.
const (
	maxDots     = 32   // in one line
	maxBraces   = 8    // in the file
	maxBrackets = 1000 // in the file
)

// tooDeep refuses text that could nest deeper. Strings are counted in, as
// telling them apart takes the parser. Lines of comment are not, unless the file
// has multi-line strings, in which such a line may be something else.
func tooDeep(data []byte) *Problem {
	comments := !bytes.Contains(data, []byte(`"""`)) && !bytes.Contains(data, []byte("'''"))
	braces, brackets, n := 0, 0, 0
	for line := range bytes.Lines(data) {
		n++
		if comments && bytes.HasPrefix(bytes.TrimLeft(line, " \t"), []byte("#")) {
			continue
		}
		braces += bytes.Count(line, []byte("{"))
		brackets += bytes.Count(line, []byte("["))
		msg := ""
		switch {
		case bytes.Count(line, []byte(".")) > maxDots:
			msg = fmt.Sprintf("has more than %d dots in one line", maxDots)
		case braces > maxBraces:
			msg = fmt.Sprintf("has more than %d \"{\" up to here", maxBraces)
		case brackets > maxBrackets:
			msg = fmt.Sprintf("has more than %d \"[\" up to here", maxBrackets)
		}
		if msg != "" {
			return &Problem{Line: n, Msg: msg + ", which no setting needs"}
		}
	}
	return nil
}
