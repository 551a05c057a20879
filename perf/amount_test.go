// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"testing"
	"time"
)

func TestAmounts(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "1400": 1400, "128K": 128 << 10, "1.5m": 3 << 19, "2G": 2 << 30, "1t": 1 << 40} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for in, want := range map[string]int64{"0": 0, "1M": 1e6, "2.5G": 2.5e9, "64k": 64000} {
		if got, err := ParseRate(in); err != nil || got != want {
			t.Errorf("ParseRate(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "K", "-1", "1X", "1KK", "nan", "inf", "1e30", "1 M"} {
		if got, err := ParseBytes(in); err == nil {
			t.Errorf("ParseBytes(%q) = %d", in, got)
		}
	}
	for in, want := range map[string]time.Duration{"10": 10 * time.Second, "0.5": 500 * time.Millisecond, "1m": time.Minute, "0": 0, "250ms": 250 * time.Millisecond} {
		if got, err := ParseSeconds(in); err != nil || got != want {
			t.Errorf("ParseSeconds(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "-1", "-1s", "ten", "1e30", "nan"} {
		if got, err := ParseSeconds(in); err == nil {
			t.Errorf("ParseSeconds(%q) = %v", in, got)
		}
	}
}
