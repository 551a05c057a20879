// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// Number is an integer as iperf3's JSON writer puts it: sometimes in floating
// notation ("1e+10"), sometimes with a fraction that is zero, and -1 as what it
// is in 64 bits without a sign. It holds up to 2^53 exactly; what is not a
// finite number of that range is refused.
type Number int64

// -1 as iperf 3.12 builds write it; the second after it went through a float.
const (
	wrapped      = "18446744073709551615"
	wrappedFloat = "1.8446744073709552e+19"
)

// UnmarshalJSON reads an integer in either notation.
func (n *Number) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	if i, err := strconv.ParseInt(string(b), 10, 64); err == nil && i >= -1<<53 && i <= 1<<53 {
		*n = Number(i)
		return nil
	}
	if string(b) == wrapped || string(b) == wrappedFloat {
		*n = -1
		return nil
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsNaN(f) || f < -1<<53 || f > 1<<53 {
		return fmt.Errorf("%.40q is not a number between -2^53 and 2^53", b)
	}
	*n = Number(f)
	return nil
}

// Flag is a boolean that some releases send as true and some as a number.
type Flag bool

// UnmarshalJSON takes true, false and numbers; a number other than zero is true.
func (f *Flag) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "null":
		return nil
	case "true":
		*f = true
		return nil
	case "false":
		*f = false
		return nil
	}
	var n Number
	if err := n.UnmarshalJSON(b); err != nil {
		return fmt.Errorf("%.40q is neither a boolean nor a number", b)
	}
	*f = n != 0
	return nil
}

// Real is a floating-point number that must be finite.
type Real float64

// UnmarshalJSON reads a finite number.
func (r *Real) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	f, err := strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("%.40q is not a finite number", b)
	}
	*r = Real(f)
	return nil
}

// MarshalJSON writes what JSON cannot express as zero.
func (r Real) MarshalJSON() ([]byte, error) {
	f := float64(r)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		f = 0
	}
	return json.Marshal(f)
}
