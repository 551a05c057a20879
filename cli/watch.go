// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"kohaku/internal/api"
	"kohaku/internal/watch"
)

// watchFlags are those of `kohaku status --watch`.
type watchFlags struct {
	on       bool
	interval time.Duration
}

// The least interval: each asks the Host.
const minInterval = 100 * time.Millisecond

func (f *watchFlags) add(c *cobra.Command) {
	c.Flags().BoolVarP(&f.on, "watch", "w", false, "go on: with rates per runner, on a terminal until q, else one set of lines per interval")
	c.Flags().DurationVar(&f.interval, "interval", time.Second, "time between two looks with --watch")
}

func (f *watchFlags) check(c *cobra.Command, asJSON bool) error {
	switch {
	case !f.on && c.Flags().Changed("interval"):
		return usagef(c.CommandPath(), "--interval is for --watch")
	case f.on && asJSON:
		return usagef(c.CommandPath(), "--json prints one value and --watch goes on: leave one out")
	case f.interval < minInterval:
		return usagef(c.CommandPath(), "--interval %v: must be at least %v", f.interval, minInterval)
	}
	return nil
}

// watchStatus shows the status again and again.
func (a *app) watchStatus(c *cobra.Command, host string, f watchFlags) error {
	t, err := findHost(host)
	if err != nil {
		return err
	}
	client, err := t.client(c) // only to find mistakes in the address now
	if err != nil {
		return err
	}
	client.Close()
	fetch := func(context.Context) (api.Status, error) {
		_, s, err := t.status(c)
		return s, err
	}
	if isTerminal(a.in) && isTerminal(a.out.w) {
		if err := watch.Terminal(c.Context(), a.in, a.out.w, fetch, f.interval); err != nil {
			return &failure{tried: "show the status on this terminal", cause: err, next: "kohaku status --watch | cat, prints lines"}
		}
		return nil
	}
	if err := watch.Plain(c.Context(), a.out.w, fetch, f.interval); err != nil {
		return &failure{tried: "write the result to standard output", cause: err}
	}
	return nil
}

// isTerminal reports whether a person sits at a reader or writer.
func isTerminal(rw any) bool {
	f, ok := rw.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
