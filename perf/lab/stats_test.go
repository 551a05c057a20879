// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestCentre(t *testing.T) {
	for _, tt := range []struct {
		v          []float64
		want, half float64
	}{
		{nil, 0, math.Inf(1)},
		{[]float64{3}, 3, math.Inf(1)},
		{[]float64{1, 4}, 2, math.Inf(1)}, // the geometric mean
		{[]float64{2, 2, 2, 2, 2, 2}, 2, 0},
		{[]float64{2, 2, 2, 2, 2, 1000}, 2, 499}, // six values: the interval reaches to both ends
		{[]float64{2, 2, 2, 2, 2, 2, 2, 2, 2, 1000}, 2, math.Expm1(math.Log(500) / 2)},
	} {
		got, half := centre(tt.v)
		if math.Abs(got-tt.want) > 1e-9 || half != tt.half && math.Abs(half-tt.half) > 1e-9 {
			t.Errorf("centre of %v: %v +- %v, want %v +- %v", tt.v, got, half, tt.want, tt.half)
		}
	}
}

// TestCentreCovers asserts what the interval promises, for noise of one mode, of
// two, and with values far off: 95 of 100 intervals hold the truth.
func TestCentreCovers(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, noise := range map[string]func() float64{
		"one mode":  func() float64 { return 0.1 * rng.NormFloat64() },
		"two modes": func() float64 { return 0.3*float64(2*rng.IntN(2)-1) + 0.02*rng.NormFloat64() },
		"far off": func() float64 {
			if rng.IntN(20) == 0 {
				return rng.NormFloat64()
			}
			return 0.05 * rng.NormFloat64()
		},
	} {
		for _, n := range []int{6, 12, 50} {
			const runs = 2000
			hit := 0
			for range runs {
				v := make([]float64, n)
				for i := range v {
					v[i] = 0.7 * math.Exp(noise())
				}
				at, half := centre(v)
				if at/(1+half) <= 0.7 && 0.7 <= at*(1+half) {
					hit++
				}
			}
			if share := float64(hit) / runs; share < 0.92 {
				t.Errorf("%s, %d values: %.1f %% of the intervals hold the truth", name, n, 100*share)
			}
		}
	}
}
