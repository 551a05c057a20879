// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// field is one key of a settings file, bound to the place in the struct where
// its value lives.
type field struct {
	key    string            // dotted
	decode func(v any) error // stores a TOML value; the error says what is allowed
	check  func() error      // judges the stored value the same way
	show   func() string     // the stored value as TOML; "" when unset
	unset  string            // what absence means, for keys that show ""
}

// rule is a condition that several keys must meet together. It is judged only
// when nothing is wrong with any of them on its own.
type rule struct {
	keys  []string // the first one is to blame
	check func() error
}

// schema is all fields and rules of one kind of file.
type schema struct {
	fields []field
	rules  []rule
	other  func() []field // fields of the other kind of file, for hints
	kind   string         // "host.toml" or "runner.toml"
}

func boolField(key string, dst *bool) field {
	return field{
		key: key,
		decode: func(v any) error {
			b, ok := v.(bool)
			if !ok {
				return errors.New("must be true or false, without quotes")
			}
			*dst = b
			return nil
		},
		check: func() error { return nil },
		show:  func() string { return strconv.FormatBool(*dst) },
	}
}

// intField is a whole number of lo..hi; also is what else to say about it.
func intField[T ~int | ~uint16 | ~uint32](key string, dst *T, also string, in func(int64) bool) field {
	check := func(v int64) error {
		if in(v) {
			return nil
		}
		return errors.New("must be " + also)
	}
	return field{
		key: key,
		decode: func(v any) error {
			n, ok := v.(int64)
			if !ok {
				return fmt.Errorf("must be a whole number without quotes, %s", also)
			}
			if err := check(n); err != nil {
				return err
			}
			*dst = T(n)
			return nil
		},
		check: func() error { return check(int64(*dst)) },
		show:  func() string { return strconv.FormatInt(int64(*dst), 10) },
	}
}

// between is the condition of an intField.
func between(lo, hi int64) func(int64) bool {
	return func(v int64) bool { return lo <= v && v <= hi }
}

// textField is a value written as a string; example is a right one.
func textField[T any](key string, dst *T, example string, parse func(string) (T, error), format func(T) string) field {
	return field{
		key: key,
		decode: func(v any) error {
			s, ok := v.(string)
			if !ok {
				return fmt.Errorf("must be a string in quotes, such as %q", example)
			}
			t, err := parse(s)
			if err != nil {
				return err
			}
			*dst = t
			return nil
		},
		check: func() error {
			_, err := parse(format(*dst))
			return err
		},
		show: func() string { return tomlString(format(*dst)) },
	}
}

// optional makes a field of a pointer that is nil when the key is absent.
func optional[T any](dst **T, unset string, of func(*T) field) field {
	f := of(new(T))
	f.unset = unset
	f.decode = func(v any) error {
		t := new(T)
		if err := of(t).decode(v); err != nil {
			return err
		}
		*dst = t
		return nil
	}
	f.check = func() error {
		if *dst == nil {
			return nil
		}
		return of(*dst).check()
	}
	f.show = func() string {
		if *dst == nil {
			return ""
		}
		return of(*dst).show()
	}
	return f
}

// tomlString writes s as a TOML basic string. strconv.Quote would not do: it
// writes escapes that TOML 1.0 does not have.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
