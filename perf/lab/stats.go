// SPDX-License-Identifier: Apache-2.0

package lab

import "slices"

// median gives the middle value, or the mean of the two in the middle; 0 of
// nothing. It does not modify v.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

// spread gives the distance between the smallest and the largest value as a
// share of the median: 0.1 is ten percent from end to end.
func spread(v []float64) float64 {
	m := median(v)
	if m == 0 {
		return 0
	}
	return (slices.Max(v) - slices.Min(v)) / m
}
