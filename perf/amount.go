// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseBytes reads an amount of bytes as iperf3 does: a number, a fraction
// allowed, with K, M, G or T for powers of 1024.
func ParseBytes(s string) (int64, error) {
	return parseAmount(s, 1024, "bytes, such as 1400, 128K or 1G")
}

// ParseRate reads a rate in bit/s as iperf3 does: a number, a fraction allowed,
// with K, M, G or T for powers of 1000. Zero is unlimited.
func ParseRate(s string) (int64, error) {
	return parseAmount(s, 1000, "bits per second, such as 1M, 2.5G, or 0 for as fast as it goes")
}

func parseAmount(s string, base float64, want string) (int64, error) {
	number, factor := s, 1.0
	if s != "" {
		if i := strings.IndexByte("KMGT", s[len(s)-1]&^0x20); i >= 0 {
			number, factor = s[:len(s)-1], math.Pow(base, float64(i+1))
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if v := f * factor; err == nil && v >= 0 && v < 1<<53 {
		return int64(v), nil
	}
	return 0, fmt.Errorf("%q: must be %s", s, want)
}

// ParseSeconds reads a time as iperf3 does, a number of seconds, or with a unit
// as Go does, such as 1.5s or 2m.
func ParseSeconds(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		var f float64
		if f, err = strconv.ParseFloat(s, 64); err == nil && f >= 0 && f < 1e9 {
			d = time.Duration(f * float64(time.Second))
		}
	}
	if err != nil || d < 0 || d == 0 && strings.Trim(s, "0.smhnuµ") != "" {
		return 0, fmt.Errorf("%q: must be seconds, such as 10 or 0.5, or a time, such as 1m", s)
	}
	return d, nil
}
