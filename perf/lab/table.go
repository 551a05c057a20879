// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// WriteTable writes one line for each measurement, that stands alone: grep finds
// and keeps the whole of it.
func (r *Report) WriteTable(w io.Writer) error {
	rows := [][]string{{"PROFILE", "TOPOLOGY", "WORKLOAD", "DATAPATH", "MEDIAN", "UNIT", "SPREAD", "VS KERNEL", "+-", "ROUNDS", "CPU", "CPU UNIT", "NOTE"}}
	for _, m := range r.sorted() {
		if m.Rounds == 0 {
			rows = append(rows, []string{m.Profile, m.Topology, m.Workload, m.DataPath, "-", m.Unit, "-", "-", "-", "0", "-", m.CPUUnit, "failed: " + m.Error})
			continue
		}
		rows = append(rows, []string{
			m.Profile, m.Topology, m.Workload, m.DataPath, number(m.Value), m.Unit, percent(m.Spread),
			m.ratio(), m.certainty(), fmt.Sprint(m.Rounds), number(m.CPU), m.CPUUnit, m.note(),
		})
	}
	return writeColumns(w, rows, map[int]bool{4: true, 6: true, 7: true, 8: true, 9: true, 10: true})
}

// ratio says how it compares with the kernel.
func (m *Measurement) ratio() string {
	if m.Ratio == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", m.Ratio)
}

// certainty says how far the ratio, or the value where there is none, is known.
func (m *Measurement) certainty() string {
	half := m.RatioCI
	if m.Ratio == 0 {
		half = m.ValueCI
	}
	if half == 0 {
		return "?"
	}
	return fmt.Sprintf("%.1f%%", 100*half)
}

// note says what else is worth a word.
func (m *Measurement) note() string {
	var parts []string
	if m.Error != "" {
		parts = append(parts, fmt.Sprintf("%d of %d rounds failed: %s", m.Failed, m.Failed+m.Rounds, m.Error))
	}
	if m.Far > 0 {
		parts = append(parts, fmt.Sprintf("%d of %d rounds with far processors", m.Far, m.Rounds))
	}
	if v, ok := m.Detail["lost_percent"]; ok {
		parts = append(parts, fmt.Sprintf("%.0f %% of the sent lost", v))
	}
	if v, ok := m.Detail[pacedLoss]; ok {
		parts = append(parts, fmt.Sprintf("%.1f %% at the kernel's rate", v))
	}
	if v, ok := m.Detail["p99_us"]; ok {
		parts = append(parts, fmt.Sprintf("p99 %.0f us", v))
	}
	if m.Limited != "" {
		parts = append(parts, m.Limited)
	}
	for _, d := range dataPaths {
		if d.name == m.DataPath && d.encrypted {
			parts = append(parts, "encrypts")
		}
	}
	return strings.Join(parts, ", ")
}

// sorted gives the measurements in the order of the lists that select them.
func (r *Report) sorted() []*Measurement {
	var paths []string
	for _, d := range dataPaths {
		paths = append(paths, d.name)
	}
	rank := func(m *Measurement) [4]int {
		return [4]int{
			slices.Index([]string{Offload, Wire}, m.Profile), slices.Index([]string{Hop, Hub}, m.Topology),
			slices.Index(Workloads(), m.Workload), slices.Index(paths, m.DataPath),
		}
	}
	out := slices.Clone(r.Measurements)
	slices.SortStableFunc(out, func(a, b *Measurement) int {
		x, y := rank(a), rank(b)
		return slices.Compare(x[:], y[:])
	})
	return out
}

// number prints three significant digits, without an exponent.
func number(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func percent(share float64) string { return fmt.Sprintf("%.0f%%", 100*share) }

// writeColumns writes rows in columns as wide as their widest cell.
func writeColumns(w io.Writer, rows [][]string, right map[int]bool) error {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if right[i] {
				b.WriteString(pad + c)
			} else {
				b.WriteString(c + pad)
			}
			b.WriteString("  ")
		}
		if _, err := io.WriteString(w, strings.TrimRight(b.String(), " ")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// WriteSummary writes where the figures come from, most general first.
func (r *Report) WriteSummary(w io.Writer) error {
	m := r.Machine
	if _, err := fmt.Fprintf(w, "%s, %d CPUs, Linux %s, %s, TCP %s; %d measurements in %.0f s\n",
		m.Processor, m.CPUs, m.Kernel, m.Go, m.Congestion, len(r.Measurements), r.Seconds); err != nil {
		return err
	}
	if r.FarRounds > 0 {
		if _, err := fmt.Fprintf(w, "in %d of %d rounds the processors were far apart: %.0f ns for a cache line from one to the other, otherwise %.0f; they count where there are too few others\n",
			r.FarRounds, r.Rounds, r.Farthest, r.Near); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Missing)) {
		if _, err := fmt.Fprintf(w, "not measured: %s: %s\n", name, r.Missing[name]); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}
