// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"kohaku/internal/lab"
	"kohaku/perf"
	perflab "kohaku/perf/lab"
)

// perfLabFlags is the command line of `kohaku perf lab`.
type perfLabFlags struct {
	o                  perflab.Options
	quick, asJSON      bool
	time               string
	svg, against, file string
	before             *perflab.Report
}

func (a *app) perfLabCommand() *cobra.Command {
	f := &perfLabFlags{}
	c := &cobra.Command{
		Use:   "lab",
		Short: "Compare data paths on this machine, in private namespaces",
		Long: `Measures the same workloads over plain veth, the kernel's VXLAN, kohaku's own data
path and other tunnel programs that are installed, in private namespaces on this
machine: in alternation, in many short rounds, until the ratios to the kernel's
VXLAN are known well enough or the time is used up; and the processor time of the
whole machine for each figure.

  data paths   ` + strings.Join(labPaths(), ", ") + `
  topologies   hop: two machines; hub: one between them that routes
  profiles     offload: 64 KiB super-frames cross whole; wire: every packet by itself
  workloads    ` + strings.Join(perflab.Workloads(), ", ") + `

Nothing on the machine is changed and nothing is left behind. The figures are of
this machine, and of what else runs on it: leave it alone meanwhile.`,
		Example: `  kohaku perf lab --quick
  kohaku perf lab --json > before.json
  kohaku perf lab --against before.json
  kohaku perf lab --datapath kernel,userspace --topology hop --profile wire --workload tcp1 --rounds 3`,
		Args: noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := f.check(c); err != nil {
				return err
			}
			// In the process that a person started this does not return.
			if err := lab.Enter(lab.Options{TUN: slices.Contains(f.o.DataPaths, perflab.Userspace)}); err != nil {
				return labFailure(err)
			}
			return a.runPerfLab(c.Context(), f)
		},
	}
	fl := c.Flags()
	fl.StringSliceVar(&f.o.DataPaths, "datapath", nil, "measure only these `NAMES`")
	fl.StringSliceVar(&f.o.Topologies, "topology", nil, "measure only these `NAMES`")
	fl.StringSliceVar(&f.o.Profiles, "profile", nil, "measure only these `NAMES`")
	fl.StringSliceVar(&f.o.Workloads, "workload", nil, "measure only these `NAMES`")
	fl.IntVar(&f.o.Rounds, "rounds", 0, "`N` rounds for all (else: as many as --budget and --precision need)")
	fl.StringVarP(&f.time, "time", "t", "", "measure each path for `SECONDS` in each round (0.2)")
	fl.DurationVar(&f.o.Budget, "budget", 0, "`TIME` for the whole run (14m30s, less if all is certain before; with --quick 45s)")
	fl.Float64Var(&f.o.Precision, "precision", 0, "measure until each ratio is known to this `SHARE`, both ways (0.02)")
	fl.BoolVar(&f.o.Unplaced, "unplaced", false, "let programs run on any processor, not on their machine's own")
	fl.BoolVar(&f.quick, "quick", false, "less than a minute: one hop, few rounds")
	fl.StringVar(&f.o.Congestion, "congestion", "", "TCP congestion control `NAME` on all machines (else: cubic, or reno where that is not allowed)")
	fl.StringVar(&f.svg, "svg", "", "write a picture to `FILE`")
	fl.StringVar(&f.file, "save", "", "write the report as JSON to `FILE` too")
	fl.StringVar(&f.against, "against", "", "compare with the report in `FILE`; exit status 3 if something got worse")
	fl.StringVar(&f.o.ProfileDir, "pprof", "", "write a processor profile of each engine into `DIR`, and flame graphs where perf(1) is installed")
	jsonFlag(c, &f.asJSON)
	return c
}

func labPaths() []string {
	names, missing := perflab.DataPaths()
	for i, n := range names {
		if missing[n] != "" {
			names[i] += " (" + missing[n] + ")"
		}
	}
	return names
}

// check finds mistakes before the lab is built.
func (f *perfLabFlags) check(c *cobra.Command) error {
	given := f.o
	if f.quick {
		f.o.Quick()
		if given.Budget != 0 {
			f.o.Budget = given.Budget
		}
	}
	if f.time != "" {
		d, err := perf.ParseSeconds(f.time)
		if err != nil {
			return usagef(c.CommandPath(), "--time: %v", err)
		}
		f.o.Time = d
	}
	if err := f.o.Check(); err != nil {
		return usagef(c.CommandPath(), "%v", err)
	}
	if f.against != "" {
		file, err := os.Open(f.against)
		if err == nil {
			defer file.Close()
			f.before, err = perflab.ReadReport(file)
		}
		if err != nil {
			return &failure{tried: "read the earlier report", cause: err, next: "kohaku perf lab --save FILE writes one"}
		}
	}
	if f.o.ProfileDir != "" {
		dir, err := filepath.Abs(f.o.ProfileDir)
		if err == nil {
			err = os.MkdirAll(dir, 0o755)
		}
		if err != nil {
			return &failure{tried: "make the directory for profiles", cause: err}
		}
		f.o.ProfileDir = dir
	}
	return nil
}

func (a *app) runPerfLab(ctx context.Context, f *perfLabFlags) error {
	f.o.Program = []string{"/proc/self/exe", "perf", perfAgent}
	show := newLabProgress(a.errOut)
	f.o.OnProgress = show.update
	r, runErr := perflab.Run(ctx, f.o)
	show.clear()
	if r == nil {
		return &failure{tried: "measure", cause: runErr}
	}
	var changes []perflab.Change
	if f.before != nil {
		changes = r.Against(f.before)
	}
	if err := f.write(a, r, changes); err != nil {
		return err
	}
	switch {
	case errors.Is(runErr, context.Canceled):
		return errInterrupted
	case runErr != nil:
		return &failure{tried: "measure everything", cause: runErr}
	case r.Failed() || perflab.Worse(changes):
		return errUnhealthy
	}
	return nil
}

// write prints the report and saves what was asked for.
func (f *perfLabFlags) write(a *app, r *perflab.Report, changes []perflab.Change) error {
	save := func(path string, write func(io.Writer) error) error {
		if path == "" {
			return nil
		}
		file, err := os.Create(path)
		if err != nil {
			return &failure{tried: "save the report", cause: err}
		}
		if err := errors.Join(write(file), file.Close()); err != nil {
			return &failure{tried: "save the report to " + path, cause: err}
		}
		return nil
	}
	if err := save(f.svg, r.WriteSVG); err != nil {
		return err
	}
	err := save(f.file, func(w io.Writer) error {
		p := newPrinter(w)
		p.json(r)
		return p.err
	})
	if err != nil {
		return err
	}
	if f.asJSON {
		if f.before == nil {
			a.out.json(r)
			return nil
		}
		a.out.json(struct {
			*perflab.Report
			Changes []perflab.Change `json:"changes"`
		}{r, changes})
		return nil
	}
	for _, write := range []func(io.Writer) error{
		r.WriteSummary, r.WriteTable, r.WriteStages, r.WriteChart,
	} {
		if err := write(a.out.w); err != nil {
			return err
		}
	}
	if f.before == nil {
		return nil
	}
	a.out.linef("\nAgainst the run of %s:", f.before.Started.Format(time.RFC3339))
	return perflab.WriteChanges(a.out.w, changes)
}

// labProgress shows how far the lab is: on a terminal in one line that is
// written over, else a line every few seconds.
type labProgress struct {
	p        *printer
	terminal bool
	last     time.Time
}

func newLabProgress(p *printer) *labProgress {
	f, ok := p.w.(*os.File)
	return &labProgress{p: p, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

func (l *labProgress) update(p perflab.Progress) {
	if !l.terminal && time.Since(l.last) < 10*time.Second {
		return
	}
	l.last = time.Now()
	left := ""
	if p.Left > 0 {
		left = ", " + p.Left.Round(time.Second).String() + " left"
	}
	line := fmt.Sprintf("%d of %d%s: %s", p.Done, p.Total, left, p.Doing)
	if p.Total == 0 {
		line = fmt.Sprintf("%d measurements%s: %s", p.Done, left, p.Doing)
	}
	if l.terminal {
		l.p.write("\r\x1b[K" + line)
		return
	}
	l.p.linef("%s", line)
}

func (l *labProgress) clear() {
	if l.terminal {
		l.p.write("\r\x1b[K")
	}
}

// perfAgent is the command that the lab starts in its machines.
const perfAgent = "lab-agent"

func (a *app) perfAgentCommand() *cobra.Command {
	return &cobra.Command{
		Use:    perfAgent,
		Short:  "One machine of the lab; the lab starts it",
		Hidden: true,
		Args:   noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return perflab.Agent(c.Context(), a.in, a.out.w)
		},
	}
}
