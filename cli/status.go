// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"kohaku/internal/api"
)

func (a *app) statusCommand() *cobra.Command {
	var (
		asJSON bool
		host   string
		watch  watchFlags
	)
	c := &cobra.Command{
		Use:   "status",
		Short: "Ask the Host how the overlay is",
		Long: `Prints one line that sums up, one line per runner, and what is wrong.
Exit status 3 if the overlay is off, a runner is inactive or anything is wrong.
--json prints the answer of the Host's GET ` + api.PathStatus + ` as it came.

--watch goes on, with rates of every runner: on a terminal as a table that can be
sorted and scrolled, until q; else as one set of lines per interval.`,
		Example: "  kohaku status | grep gpu-1\n  kohaku status --watch\n  kohaku status --json | jq .stats",
		GroupID: groupLook,
		Args:    noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := watch.check(c, asJSON); err != nil {
				return err
			}
			if watch.on {
				return a.watchStatus(c, host, watch)
			}
			return a.showStatus(c, host, asJSON, a.printStatus)
		},
	}
	jsonFlag(c, &asJSON)
	hostFlag(c, &host)
	watch.add(c)
	return c
}

// showStatus asks the Host for the overlay's status and prints it, as the Host
// gave it or by show. The error says whether all is well.
func (a *app) showStatus(c *cobra.Command, host string, asJSON bool, show func(target, api.Status, time.Time)) error {
	t, err := findHost(host)
	if err != nil {
		return err
	}
	raw, s, err := t.status(c)
	if err != nil {
		return err
	}
	if asJSON {
		a.out.write(string(bytes.TrimRight(raw, "\n")) + "\n")
	} else {
		show(t, s, time.Now())
	}
	return verdict(s)
}

// verdict is nil for an overlay that is on, with all runners active and no
// problem known.
func verdict(s api.Status) error {
	if !s.Enabled || s.Stats.InactiveAllocations > 0 || len(problems(s, time.Time{})) > 0 {
		return errUnhealthy
	}
	return nil
}

// problems are all that the status knows to be wrong, as lines for a person.
func problems(s api.Status, now time.Time) []string {
	var out []string
	for _, p := range s.Problems {
		out = append(out, api.Printable(p))
	}
	for _, r := range s.Allocations {
		name := api.Printable(r.RunnerName)
		if !r.IsActive {
			out = append(out, fmt.Sprintf("%s: inactive, last heard of: %s; there: systemctl status kohakuriver-runner; if it is gone for good: kohaku node overlay-release %s",
				name, ago(r.LastUsed, now), name))
		}
		for _, p := range r.RunnerProblems {
			out = append(out, name+": "+api.Printable(p))
		}
	}
	return out
}

func (a *app) printStatus(t target, s api.Status, now time.Time) {
	p := a.out
	if !s.Enabled {
		p.linef("%s: the Host at %s runs without it", p.in(yellow, "Overlay off"), t.addr)
		p.linef("  next: kohaku node overlay, says how to switch it on")
		return
	}
	wrong := problems(s, now)
	active := fmt.Sprintf("%d of %s active", s.Stats.ActiveAllocations, count(s.Stats.TotalAllocations, "runner"))
	switch {
	case len(wrong) > 0:
		p.linef("%s: %s, %s", p.in(yellow, "Overlay degraded"), active, count(len(wrong), "problem"))
	case s.Stats.TotalAllocations == 0:
		p.linef("%s: no runner has registered yet", p.in(green, "Overlay ok"))
	default:
		p.linef("%s: %s", p.in(green, "Overlay ok"), active)
	}
	p.linef("%s, Host %s, VNI %d+id, UDP %d, MTU %s, %d of %d ids free",
		api.Printable(s.SubnetConfig), s.HostIP, s.Stats.BaseVXLANID, s.Stats.VXLANPort, mtu(s.Stats.MTU),
		s.Stats.AvailableIDs, s.Stats.MaxRunners)

	if len(s.Allocations) > 0 {
		p.linef("")
		p.table([]string{"RUNNER", "STATE", "ID", "SUBNET", "UNDERLAY", "DEVICE", "VNI", "SEEN", "RX", "TX", "DROPS"}, statusRows(s, now))
	}
	if lines := firewallLines(s); len(lines) > 0 {
		p.linef("\n%s", p.in(bold, "Firewall"))
		for _, l := range lines {
			p.linef("  %s", l)
		}
	}
	if len(wrong) > 0 {
		p.linef("\n%s", p.in(bold, "Problems"))
		for _, w := range wrong {
			p.linef("  %s", w)
		}
	}
}

// statusRows has one row per runner. Received and sent are the Host's view, so
// RX is what came from the runner.
func statusRows(s api.Status, now time.Time) [][]cell {
	var rows [][]cell
	for _, r := range s.Allocations {
		state := cell{"active", green}
		if !r.IsActive {
			state = cell{"inactive", yellow}
		}
		rx, tx, drops := "-", "-", "-"
		if n := r.Counters; n != nil {
			rx, tx = size(n.RxBytes), size(n.TxBytes)
			total := uint64(0)
			for _, d := range n.Drops {
				total += d
			}
			drops = fmt.Sprint(total)
		}
		row := []cell{{text: api.Printable(r.RunnerName)}, state}
		row = append(row, cells(fmt.Sprint(r.RunnerID), r.Subnet.String(), address(r.PhysicalIP),
			orDash(api.Printable(r.VXLANDevice)), fmt.Sprint(r.VNI), ago(r.LastUsed, now), rx, tx, drops)...)
		rows = append(rows, row)
	}
	return rows
}
