// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is everything that is wrong with one settings file.
type Error struct {
	File     string // as given to the function that read it
	Problems []Problem
}

// Problem is one thing wrong with a settings file.
type Problem struct {
	Line   int    // from 1; 0: no line is to blame (a required key is missing, settings built in code)
	Column int    // from 1, in bytes; 0 but for syntax errors
	Key    string // dotted, "overlay.vxlan_port"; "" when the file as a whole is meant
	Value  string // the value found, as TOML, shortened; "" when there is none to show
	Msg    string // what is allowed, and where possible what to write instead
}

// Error prints one line for each problem:
//
//	host.toml:12: overlay.vxlan_port = 70000: must be 1..65535
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = printable(e.File) + p.String()
	}
	return strings.Join(lines, "\n")
}

// String prints the problem without its file: ":12: key = value: message", or
// ": message" when there is neither line nor key.
func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, ":%d", p.Column)
		}
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key)
		if p.Value != "" {
			b.WriteString(" = " + p.Value)
		}
		b.WriteString(": ")
	}
	b.WriteString(p.Msg)
	return b.String()
}

// maxShown bounds, in bytes, how much of somebody's input a message repeats.
const maxShown = 80

// quote puts s between quotes for a message, shortened and with nothing in it
// that could upset a terminal.
func quote(s string) string { return fmt.Sprintf("%q", shorten(s)) }

// shorten returns s, or its beginning when it is long.
func shorten(s string) string {
	if len(s) <= maxShown {
		return s
	}
	cut := maxShown
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}

// printable returns s, quoted if it has characters that do not belong in a line
// of text.
func printable(s string) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}
