// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"math"
	"slices"
)

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

// spread gives the distance between the quartiles as a share of the median: at
// 0.1 half of the values lie within ten percent.
func spread(v []float64) float64 {
	m := median(v)
	if m == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	at := func(q float64) float64 { // between two values: in proportion
		i, rest := math.Modf(q * float64(len(s)-1))
		if rest == 0 {
			return s[int(i)]
		}
		return s[int(i)]*(1-rest) + s[int(i)+1]*rest
	}
	return (at(0.75) - at(0.25)) / m
}

// confident is the least number of values from which a confidence interval is
// drawn: with fewer, no interval that ends at the values themselves has 95 %.
const confident = 6

// centre gives the Hodges-Lehmann estimate of where positive values lie, and how
// far its 95 % confidence interval reaches to the longer side, as a share of it.
//
// The estimate is the median of the means of all pairs of values, a value with
// itself included. It bears a quarter of the values being far off, as a median
// does, but does not jump between two modes where a median would, and it needs a
// third fewer values than the median for the same certainty. Means are taken of
// logarithms, so that the estimate of the inverse ratio is the inverse estimate.
// The interval is that of Wilcoxon's signed ranks (Hollander and Wolfe,
// Nonparametric Statistical Methods, 3.2 and 3.3): it supposes nothing about the
// values but that they are independent and their distribution symmetrical.
//
// With fewer than confident values the interval is infinite.
func centre(v []float64) (estimate, half float64) {
	n := len(v)
	if n == 0 {
		return 0, math.Inf(1)
	}
	logs := make([]float64, n)
	for i, x := range v {
		logs[i] = math.Log(x)
	}
	pairs := make([]float64, 0, n*(n+1)/2)
	for i, a := range logs {
		for _, b := range logs[:i+1] {
			pairs = append(pairs, (a+b)/2)
		}
	}
	slices.Sort(pairs)
	m := len(pairs)
	mid := (pairs[(m-1)/2] + pairs[m/2]) / 2
	estimate = math.Exp(mid)
	if n < confident {
		return estimate, math.Inf(1)
	}
	f := float64(n)
	// The number of pairs outside on either side, by the normal approximation.
	outside := int(f*(f+1)/4-1.96*math.Sqrt(f*(f+1)*(2*f+1)/24)) - 1
	outside = min(max(outside, 0), (m-1)/2)
	return estimate, math.Expm1(max(pairs[m-1-outside]-mid, mid-pairs[outside]))
}
