// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"context"
	"fmt"
	"io"
	"time"

	"kohaku/internal/api"
)

// Fetch asks the Host.
type Fetch func(context.Context) (api.Status, error)

// Plain writes one set of lines per interval to w until ctx ends: first what sums
// up, then a line for each runner, then problems. Every line begins with the time.
// A Host that does not answer is a line, too. The first set has no rates. It returns
// an error of writing.
func Plain(ctx context.Context, w io.Writer, fetch Fetch, interval time.Duration) error {
	var s series
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		status, err := fetch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := plainSet(w, &s, status, err, time.Now()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// plainSet writes what one answer says.
func plainSet(w io.Writer, s *series, status api.Status, err error, now time.Time) error {
	at := now.Format("15:04:05")
	if err != nil {
		_, err := fmt.Fprintf(w, "%s no answer: %s\n", at, api.Printable(err.Error()))
		return err
	}
	if !status.Enabled {
		_, err := fmt.Fprintf(w, "%s the overlay is off\n", at)
		return err
	}
	lines := s.add(status, now)
	if _, err := fmt.Fprintf(w, "%s overlay %s runners=%d active=%d problems=%d\n",
		at, api.Printable(status.SubnetConfig), status.Stats.TotalAllocations, status.Stats.ActiveAllocations, len(status.Problems)); err != nil {
		return err
	}
	for _, l := range lines {
		rates := "rx=- tx=- rx_frames=- tx_frames=- drops=-"
		if l.known {
			r := l.rate
			rates = fmt.Sprintf("rx=%sbit/s tx=%sbit/s rx_frames=%s/s tx_frames=%s/s drops=%s/s",
				short(r.InBits), short(r.OutBits), short(r.InFrames), short(r.OutFrames), short(r.Drops))
		}
		if _, err := fmt.Fprintf(w, "%s %s %s seen=%s %s\n", at, api.Printable(l.RunnerName), l.state(), age(l.LastUsed, now), rates); err != nil {
			return err
		}
	}
	for _, p := range problems(status) {
		if _, err := fmt.Fprintf(w, "%s problem: %s\n", at, p); err != nil {
			return err
		}
	}
	return nil
}
