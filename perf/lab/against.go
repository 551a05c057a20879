// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"fmt"
	"io"
)

// Change is one measurement in two runs.
type Change struct {
	DataPath string `json:"datapath"`
	Topology string `json:"topology"`
	Profile  string `json:"profile"`
	Workload string `json:"workload"`
	// By says what is compared: "ratio" to the kernel where both runs have it, as
	// it does not depend on how busy the machine was; else "value".
	By     string  `json:"by"`
	Before float64 `json:"before"`
	Now    float64 `json:"now"`
	// Gain is the change for the better, as a share: -0.1 is ten percent worse.
	Gain float64 `json:"gain"`
	// Noise is the change that chance explains: both figures' confidence intervals.
	Noise  float64 `json:"noise"`
	Worse  bool    `json:"worse"`
	Better bool    `json:"better"`
	// Unlike: processors were near in one run and far in the other, which makes
	// the machine another one; such figures are neither worse nor better.
	Unlike bool `json:"unlike,omitempty"`
}

// minNoise is the least change that counts, whatever the spread.
const minNoise = 0.05

// ReadReport reads what --json wrote.
func ReadReport(r io.Reader) (*Report, error) {
	var out Report
	if err := json.NewDecoder(r).Decode(&out); err != nil {
		return nil, fmt.Errorf("not a report of kohaku perf lab --json: %w", err)
	}
	for _, m := range out.Measurements {
		if m == nil {
			return nil, fmt.Errorf("not a report of kohaku perf lab --json: an empty measurement")
		}
	}
	return &out, nil
}

// Against compares with an earlier run: what both measured, in order.
func (r *Report) Against(before *Report) []Change {
	var out []Change
	for _, now := range r.sorted() {
		was := before.find(now.key())
		if was == nil || was.Rounds == 0 || now.Rounds == 0 || was.Value == 0 || now.Value == 0 {
			continue
		}
		c := Change{
			DataPath: now.DataPath, Topology: now.Topology, Profile: now.Profile, Workload: now.Workload,
			By: "value", Before: was.Value, Now: now.Value,
			Noise: noise(was.ValueCI, was.Spread) + noise(now.ValueCI, now.Spread),
		}
		if was.Ratio != 0 && now.Ratio != 0 {
			c.By, c.Before, c.Now = "ratio", was.Ratio, now.Ratio
			c.Noise = noise(was.RatioCI, was.RatioSpread) + noise(now.RatioCI, now.RatioSpread)
		}
		c.Noise = max(c.Noise, minNoise)
		c.Gain = c.Now/c.Before - 1
		if now.LowerIsBetter {
			c.Gain = c.Before/c.Now - 1
		}
		if c.Unlike = was.mostlyFar() != now.mostlyFar(); !c.Unlike {
			c.Worse, c.Better = c.Gain < -c.Noise, c.Gain > c.Noise
		}
		out = append(out, c)
	}
	return out
}

func (m *Measurement) mostlyFar() bool { return 2*m.Far > m.Rounds }

// noise is what a figure may be off: its confidence interval, or its spread where
// there were too few rounds for one.
func noise(half, spread float64) float64 {
	if half > 0 {
		return half
	}
	return spread
}

// Worse reports whether something got worse beyond the noise.
func Worse(changes []Change) bool {
	for _, c := range changes {
		if c.Worse {
			return true
		}
	}
	return false
}

// WriteChanges writes a comparison, one line for each measurement.
func WriteChanges(w io.Writer, changes []Change) error {
	rows := [][]string{{"PROFILE", "TOPOLOGY", "WORKLOAD", "DATAPATH", "BY", "BEFORE", "NOW", "GAIN", "NOISE", "VERDICT"}}
	for _, c := range changes {
		verdict := "same"
		switch {
		case c.Worse:
			verdict = "WORSE"
		case c.Better:
			verdict = "better"
		case c.Unlike:
			verdict = "unlike: processors near in one run, far in the other"
		}
		rows = append(rows, []string{
			c.Profile, c.Topology, c.Workload, c.DataPath, c.By, number(c.Before), number(c.Now),
			fmt.Sprintf("%+.0f%%", 100*c.Gain), percent(c.Noise), verdict,
		})
	}
	return writeColumns(w, rows, map[int]bool{5: true, 6: true, 7: true, 8: true})
}
