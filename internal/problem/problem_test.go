// SPDX-License-Identifier: Apache-2.0

package problem

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestSetLogsChangesOnly(t *testing.T) {
	var out bytes.Buffer
	s := NewSet(slog.New(slog.NewTextHandler(&out, nil)))
	one, two := errors.New("no route"), errors.New("no route\x1b[2J at all")
	steps := []struct {
		key  string
		err  error
		logs string // what the step must log; nothing when empty
	}{
		{"a", nil, ""},
		{"a", one, "no route"},
		{"a", one, ""},
		{"b", one, "no route"},
		{"a", two, "at all"},
		{"a", nil, "is over"},
		{"a", nil, ""},
		{"a", one, "no route"},
	}
	for i, step := range steps {
		out.Reset()
		if fine := s.Set(step.key, step.err); fine != (step.err == nil) {
			t.Errorf("step %d: Set = %v", i, fine)
		}
		if got := out.String(); !strings.Contains(got, step.logs) || (got == "") != (step.logs == "") {
			t.Errorf("step %d logged %q, want %q", i, got, step.logs)
		}
	}
	if got := s.List(); !slices.Equal(got, []string{"no route", "no route"}) {
		t.Errorf("List = %q", got)
	}
	s.Set("a", two)
	if got := s.List(); strings.Contains(got[0], "\x1b") {
		t.Errorf("List shows control characters: %q", got)
	}
}
