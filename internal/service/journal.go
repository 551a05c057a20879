// SPDX-License-Identifier: Apache-2.0

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"
)

// journalHandler writes messages to the journal. Each attribute is a field of its
// own, KOHAKU_ and its key in upper case, to select by:
//
//	journalctl -u kohakuriver-host KOHAKU_RUNNER=gpu-1
//
// and stands in the message's text, too, since that is what people see. The journal
// has time and level in fields of its own.
type journalHandler struct {
	// Constant.
	name     string
	level    slog.Leveler
	send     func(text string, p journal.Priority, fields map[string]string) error
	fallback slog.Handler // for what the journal does not take

	attrs []slog.Attr // with the groups that they are in as prefixes of their keys
	group string      // prefix of keys to come, "" or ending in a dot
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.attrs = h.attrs[:len(h.attrs):len(h.attrs)]
	for _, a := range attrs {
		n.attrs = flatten(n.attrs, h.group, a)
	}
	n.fallback = h.fallback.WithAttrs(attrs)
	return &n
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.group += name + "."
	n.fallback = h.fallback.WithGroup(name)
	return &n
}

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	all := h.attrs[:len(h.attrs):len(h.attrs)]
	r.Attrs(func(a slog.Attr) bool { all = flatten(all, h.group, a); return true })
	fields := map[string]string{"SYSLOG_IDENTIFIER": h.name}
	var text strings.Builder
	text.WriteString(r.Message)
	for _, a := range all {
		value := valueText(a.Value)
		fields[fieldName(a.Key)] = value
		text.WriteString(" " + a.Key + "=" + quoted(value))
		if err, ok := a.Value.Any().(error); ok {
			if errno, ok := errors.AsType[syscall.Errno](err); ok {
				fields["ERRNO"] = strconv.Itoa(int(errno)) // systemd.journal-fields(7)
			}
		}
	}
	if h.send(text.String(), priority(r.Level), fields) != nil {
		return h.fallback.Handle(ctx, r)
	}
	return nil
}

// flatten appends an attribute, or those of a group, with their full keys.
func flatten(to []slog.Attr, prefix string, a slog.Attr) []slog.Attr {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			to = flatten(to, prefix, member)
		}
		return to
	}
	if a.Key == "" {
		return to
	}
	return append(to, slog.Attr{Key: prefix + a.Key, Value: v})
}

func valueText(v slog.Value) string {
	if v.Kind() == slog.KindTime {
		return v.Time().Format(time.RFC3339Nano)
	}
	if err, ok := v.Any().(error); ok {
		return err.Error()
	}
	if v.Kind() == slog.KindAny {
		return fmt.Sprintf("%+v", v.Any())
	}
	return v.String()
}

// quoted writes a value as slog's text does: in quotes when it would not read as
// one word.
func quoted(s string) string {
	bad := func(r rune) bool { return r == '"' || r == '=' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if s == "" || strings.ContainsFunc(s, bad) {
		return strconv.Quote(s)
	}
	return s
}

// maxField is the longest name that the journal takes (journal_field_valid in
// systemd: 64 characters).
const maxField = 64

// fieldName makes a name of a key that the journal takes: A to Z, 0 to 9 and _, and
// first none that the journal keeps for itself.
func fieldName(key string) string {
	name := []byte("KOHAKU_" + strings.ToUpper(key))
	for i, c := range name {
		if !('A' <= c && c <= 'Z' || '0' <= c && c <= '9') {
			name[i] = '_'
		}
	}
	return string(name[:min(len(name), maxField)])
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
