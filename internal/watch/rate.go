// SPDX-License-Identifier: Apache-2.0

// Package watch shows a Host's status as it changes: with rates, in a terminal or
// as lines of text.
package watch

import (
	"fmt"
	"time"

	"kohaku/internal/api"
)

// Rate is what passes a tunnel in a second, as the Host sees it: in is what comes
// from the runner.
type Rate struct {
	InFrames, OutFrames float64
	InBits, OutBits     float64
	Drops               float64
}

func (r Rate) plus(o Rate) Rate {
	return Rate{r.InFrames + o.InFrames, r.OutFrames + o.OutFrames, r.InBits + o.InBits, r.OutBits + o.OutBits, r.Drops + o.Drops}
}

// between gives the rate from one reading of a tunnel's counters to the next. ok is
// false when there is no earlier one, or no time has passed. A counter that has
// become smaller was set back, by a daemon that was started anew: what it shows has
// passed since.
func between(was, is *api.Counters, passed time.Duration) (r Rate, ok bool) {
	if was == nil || is == nil || passed <= 0 {
		return Rate{}, false
	}
	per := func(was, is uint64) float64 {
		if is < was {
			was = 0
		}
		return float64(is-was) / passed.Seconds()
	}
	r = Rate{
		InFrames: per(was.RxFrames, is.RxFrames), OutFrames: per(was.TxFrames, is.TxFrames),
		InBits: 8 * per(was.RxBytes, is.RxBytes), OutBits: 8 * per(was.TxBytes, is.TxBytes),
	}
	for reason, n := range is.Drops {
		r.Drops += per(was.Drops[reason], n)
	}
	return r, true
}

// short writes a number with at most three significant digits, or three before the
// point, and a decimal unit: 0, 7.5, 12.3k, 940M.
func short(f float64) string {
	if f < 0.05 {
		return "0"
	}
	unit := ""
	for _, next := range []string{"k", "M", "G", "T", "P"} {
		if f < 999.5 {
			break
		}
		f, unit = f/1000, next
	}
	switch {
	case f < 9.995 && unit != "":
		return fmt.Sprintf("%.2f%s", f, unit)
	case f < 99.95 && (unit != "" || f < 9.95):
		return fmt.Sprintf("%.1f%s", f, unit)
	}
	return fmt.Sprintf("%.0f%s", f, unit)
}

// age writes how long ago something was.
func age(since, now time.Time) string {
	if since.IsZero() || since.Unix() == 0 {
		return "never"
	}
	d := max(now.Sub(since), 0) // also a Host whose clock is ahead of ours
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}
