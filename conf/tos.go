// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"strconv"
)

const (
	tosInherit = "inherit"
	tosWant    = `0..252 and a multiple of 4 (the two low bits are ECN's), or "inherit"`
)

// ParseTOS reads a number of 0..252 that is a multiple of 4, decimal or with 0x,
// or "inherit".
func ParseTOS(s string) (TOS, error) {
	if s == tosInherit {
		return TOS{Inherit: true}, nil
	}
	n, err := strconv.ParseUint(s, 0, 16)
	if err != nil {
		return TOS{}, errors.New("must be " + tosWant)
	}
	return tosOf(int64(n))
}

func tosOf(n int64) (TOS, error) {
	if n < 0 || n > 252 || n%4 != 0 {
		return TOS{}, errors.New("must be " + tosWant)
	}
	return TOS{Value: uint8(n)}, nil
}

// String is "inherit" or the number.
func (t TOS) String() string {
	if t.Inherit {
		return tosInherit
	}
	return strconv.Itoa(int(t.Value))
}

// tosField is a key whose value is a number or "inherit".
func tosField(key string, dst *TOS) field {
	return field{
		key: key,
		decode: func(v any) (err error) {
			var t TOS
			switch v := v.(type) {
			case int64:
				t, err = tosOf(v)
			case string:
				if v != tosInherit {
					if _, err := ParseTOS(v); err == nil {
						return errors.New("must be a number without quotes, " + tosWant)
					}
				}
				t, err = ParseTOS(v)
			default:
				err = fmt.Errorf("must be %s", tosWant)
			}
			if err == nil {
				*dst = t
			}
			return err
		},
		check: func() error {
			_, err := tosOf(int64(dst.Value))
			return err
		},
		show: func() string {
			if dst.Inherit {
				return tomlString(tosInherit)
			}
			return dst.String()
		},
	}
}
