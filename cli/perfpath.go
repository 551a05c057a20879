// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"kohaku/internal/api"
	"kohaku/perf"
	"kohaku/perf/path"
)

func (a *app) perfPathCommand() *cobra.Command {
	var (
		o            path.Options
		asJSON       bool
		host, length string
	)
	c := &cobra.Command{
		Use:   "path RUNNER [RUNNER]",
		Short: "Measure a way through the overlay, and say what slows it",
		Long: `On a running cluster, has the Host and a runner, or two runners, measure between
them: over the underlay and over the overlay, with one flow and with several, and
round trips. Then it says in one sentence what slows the overlay, with the evidence:
all machines on the way watch their processors, queues, MTUs and offloads meanwhile.

It can be run wherever the Host's API can be reached. It fills the network for some
seconds. The machines open a port for it, for each other alone and for one test at
a time: TCP ` + fmt.Sprint(api.PerfPort) + `, which firewalls between them must let through. Ctrl-C ends all.`,
		Example: `  kohaku perf path gpu-1
  kohaku perf path gpu-1 gpu-2 -P 8 -t 5
  kohaku perf path gpu-1 --json | jq .verdict`,
		Args: args(1, 2, "RUNNER [RUNNER]"),
		RunE: func(c *cobra.Command, given []string) error {
			for i, to := range []*string{&o.From, &o.To}[:len(given)] {
				name, err := api.CanonicalHostname(given[i])
				if err != nil {
					return usagef(c.CommandPath(), "%v", err)
				}
				*to = name
			}
			var err error
			if o.Time, err = perf.ParseSeconds(length); err != nil {
				return usagef(c.CommandPath(), "--time: %v", err)
			}
			if err := o.Check(); err != nil {
				return usagef(c.CommandPath(), "%v", err)
			}
			client, err := findClient(c, host)
			if err != nil {
				return err
			}
			defer client.Close()
			return a.runPerfPath(c, client, o, asJSON)
		},
	}
	fl := c.Flags()
	fl.IntVarP(&o.Streams, "parallel", "P", 4, "`N` flows, beside one")
	fl.StringVarP(&length, "time", "t", "2", "`SECONDS` of each test")
	fl.BoolVarP(&o.Reverse, "reverse", "R", false, "the other way: the second runner, or the Host, sends")
	jsonFlag(c, &asJSON)
	hostFlag(c, &host)
	return c
}

func (a *app) runPerfPath(c *cobra.Command, client *api.Client, o path.Options, asJSON bool) error {
	if !asJSON {
		o.OnStep = func(p path.Progress) {
			if p.Done {
				a.out.linef("%d/%d  %-46s %s", p.Step, p.Steps, pathTest(p.Test), pathFigure(p.Test))
			}
		}
	}
	r, err := path.Run(c.Context(), client, o)
	if err != nil {
		return callFailure(c, err)
	}
	if asJSON {
		a.out.json(r)
		return nil
	}
	a.printPath(r)
	return nil
}

// pathTest names a test for a person.
func pathTest(t path.Test) string {
	what := count(t.Flows, "flow")
	if t.Mode == api.PerfRoundTrip {
		what = "round trips"
	}
	return fmt.Sprintf("%s > %s, %s, %s", path.Name(t.From), path.Name(t.To), t.Network, what)
}

func pathFigure(t path.Test) string {
	if t.Mode == api.PerfRoundTrip {
		return fmt.Sprintf("%.0f us (p99 %.0f)", t.Figures.P50, t.Figures.P99)
	}
	return fmt.Sprintf("%.0f Mbit/s", t.Figures.Bits/1e6)
}

func (a *app) printPath(r *path.Report) {
	p := a.out
	from, to := path.Name(r.From), path.Name(r.To)
	arrow := " > "
	if r.Reverse {
		arrow = " < "
	}
	p.linef("\n%s", p.in(bold, from+arrow+to))
	p.table([]string{"", "UNDERLAY", "OVERLAY", ""}, pathRows(r))
	paint := yellow
	if r.Verdict.Cause == path.Nothing {
		paint = green
	}
	p.linef("\n%s %s", p.in(paint, "Verdict:"), api.Printable(r.Verdict.Sentence))
	for _, line := range r.Verdict.Evidence {
		p.linef("  %s", api.Printable(line))
	}
	for _, line := range r.Verdict.Also {
		p.linef("  also: %s", api.Printable(line))
	}
	for _, line := range unseen(r) {
		p.linef("  not known: %s", api.Printable(line))
	}
}

// unseen is what machines could not look at, without repetitions.
func unseen(r *path.Report) (lines []string) {
	for _, t := range r.Tests {
		for _, s := range t.Seen {
			for _, m := range s.Missing {
				if line := path.Name(s.Runner) + " could not " + m; !slices.Contains(lines, line) {
					lines = append(lines, line)
				}
			}
		}
	}
	return lines
}

// pathRows has a row for each kind of test between the two ends, and one for each
// part of the underlay.
func pathRows(r *path.Report) [][]cell {
	var rows [][]cell
	for i, t := range r.Tests {
		if t.From != r.From || t.To != r.To {
			rows = append(rows, cells(fmt.Sprintf("%s, %s > %s", count(t.Flows, "flow"), path.Name(t.From), path.Name(t.To)), pathFigure(t), "", ""))
			continue
		}
		if t.Network != api.PerfUnderlay || i+1 == len(r.Tests) {
			continue
		}
		over := r.Tests[i+1] // the plan has them in pairs
		if t.Mode == api.PerfRoundTrip {
			rows = append(rows, cells("round trip", pathFigure(t), pathFigure(over),
				fmt.Sprintf("%+.0f us, expected < %d us", r.LatencyOverhead, path.ExpectedLatency)))
			continue
		}
		share := "-"
		if t.Figures.Bits > 0 {
			share = fmt.Sprintf("%.0f %%", 100*over.Figures.Bits/t.Figures.Bits)
		}
		rows = append(rows, cells(count(t.Flows, "flow"), pathFigure(t), pathFigure(over), share))
	}
	return rows
}
