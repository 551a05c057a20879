// SPDX-License-Identifier: Apache-2.0

package cli

// Output rules. Every command keeps them; a new one has no others.
//
//   - Results go to standard output. Logs, progress of daemons and errors go to
//     standard error. A pipe therefore receives results and nothing else.
//   - A result is a table or short lines by default. Every command that prints
//     a result has --json, which prints exactly one JSON value and a newline.
//     With --json nothing else reaches standard output, also when the command
//     fails; the exit status says the same in both forms.
//   - The most general line comes first, then one line for each thing, then
//     problems. A line about one thing stands alone: it carries the thing's
//     name and its state as words, so that grep finds and keeps the whole of it.
//   - Colour only repeats what a word on the same line says. It is used when
//     standard output is a terminal, TERM is not "dumb" and NO_COLOR is unset
//     or empty (https://no-color.org).
//   - Columns are as wide as their widest cell and separated by two spaces. No
//     line is cut to the terminal's width: what does not fit is still data.
//   - Times are relative where a person asks "how long ago", RFC 3339 in JSON.
//   - Errors have up to three lines: what was tried, what was answered, what to
//     do next. See failure in errors.go.
//   - Exit statuses are the constants in errors.go, and in no other place.

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// printer writes a command's result. Write errors are kept: a full disk or a
// closed pipe must not look like success.
type printer struct {
	w      io.Writer
	colour bool
	err    error
}

// newPrinter decides about colour once for w.
func newPrinter(w io.Writer) *printer { return &printer{w: w, colour: colourFor(w)} }

// colourFor reports whether w is a terminal that wants colour.
func colourFor(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// linef prints one line.
func (p *printer) linef(format string, args ...any) {
	p.write(fmt.Sprintf(format, args...) + "\n")
}

func (p *printer) write(s string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, s)
	}
}

// json prints v as the one JSON value of a --json run, indented by two.
func (p *printer) json(v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		p.err = err
		return
	}
	p.write(string(b) + "\n")
}

// paint is an SGR parameter. The zero paint changes nothing.
type paint string

const (
	plain  paint = ""
	bold   paint = "1"
	faint  paint = "2"
	red    paint = "31"
	green  paint = "32"
	yellow paint = "33"
)

// in returns s in c where colour is on.
func (p *printer) in(c paint, s string) string {
	if !p.colour || c == plain || s == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// cell is one field of a table.
type cell struct {
	text  string
	paint paint
}

// cells makes unpainted cells.
func cells(texts ...string) []cell {
	out := make([]cell, len(texts))
	for i, t := range texts {
		out[i].text = t
	}
	return out
}

// table prints rows under a faint header. Widths are counted before painting,
// since escape sequences take no room. The last column is not padded, so that
// no line ends in blanks.
func (p *printer) table(header []string, rows [][]cell) {
	width := make([]int, len(header))
	for i, h := range header {
		width[i] = utf8.RuneCountInString(h)
	}
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	head := make([]cell, len(header))
	for i, h := range header {
		head[i] = cell{h, faint}
	}
	for _, r := range append([][]cell{head}, rows...) {
		var b strings.Builder
		for i, c := range r {
			b.WriteString(p.in(c.paint, c.text))
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		p.write(strings.TrimRight(b.String(), " ") + "\n")
	}
}

// block indents every line of a text of several lines.
func block(indent, text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return indent + strings.Join(lines, "\n"+indent)
}

// count says "1 runner", "2 runners".
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
