// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"kohaku/internal/demo"
	"kohaku/internal/lab"
)

func (a *app) demoCommand() *cobra.Command {
	var (
		asJSON, keep bool
		megabytes    int64
		budget       time.Duration
	)
	c := &cobra.Command{
		Use:   "demo",
		Short: "See it work: a Host, two Runners and two containers on this machine",
		Long: `In a private namespace on this machine: one switch, a Host and two Runners with
the real daemons, a container on each Runner. Then pings, masqueraded traffic, a
TCP transfer, kohaku status and the packets on the underlay. Exit status 0 only if
all of it held, 3 if something did not.

Nothing on the machine is changed and nothing is left behind, however it ends.
Root is not needed where ordinary users may make user namespaces.`,
		GroupID: groupDaemons,
		Args:    noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if megabytes < 1 {
				return usagef(c.CommandPath(), "--mib %d: must be 1 or more", megabytes)
			}
			if budget <= 0 {
				return usagef(c.CommandPath(), "--time: must be a positive duration")
			}
			if err := findIPTables(); err != nil {
				return err
			}
			// In the process that a person started this does not return.
			if err := lab.Enter(lab.Options{TUN: true}); err != nil {
				return labFailure(err)
			}
			o := demo.Options{
				Program: "/proc/self/exe", Keep: keep, Bytes: megabytes << 20, Budget: budget,
			}
			progress := a.out
			if asJSON {
				progress = a.errOut
			}
			o.Progress, o.Colour = progress.w, progress.colour
			if f, ok := progress.w.(*os.File); ok {
				o.Redraw = progress.colour && term.IsTerminal(int(f.Fd()))
			}
			r, err := demo.Run(c.Context(), o)
			if asJSON {
				a.out.json(r)
			}
			switch {
			case errors.Is(err, context.Canceled):
				return errInterrupted
			case err != nil:
				return &failure{tried: "show the overlay", cause: err}
			case !r.OK:
				return errUnhealthy
			}
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	c.Flags().BoolVar(&keep, "keep", false, "leave it up until Ctrl-C, and say how to get in")
	c.Flags().Int64Var(&megabytes, "mib", 1024, "size of the TCP transfer in `MiB`")
	c.Flags().DurationVar(&budget, "time", 5*time.Second, "longest `TIME` of the TCP transfer, such as 5s")
	return c
}

// findIPTables looks where the daemons will look.
func findIPTables() error {
	if _, err := exec.LookPath("iptables"); err == nil {
		return nil
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if _, err := exec.LookPath(filepath.Join(dir, "iptables")); err == nil {
			return nil
		}
	}
	return &failure{
		tried: "find iptables, which the Runners need to masquerade",
		next:  "make deps, or: sudo apt-get install iptables",
	}
}

// labFailure says what the lab could not do, and what to do about it.
func labFailure(err error) error {
	var e *lab.EnterError
	if !errors.As(err, &e) {
		return &failure{tried: "enter a private namespace", cause: err}
	}
	return &failure{tried: "enter a private namespace: " + e.Step, cause: e.Err, next: e.Advice}
}
