// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"kohaku/conf"
	"kohaku/internal/link"
	"kohaku/internal/takeover"
)

// role is a daemon that can take over from the kernel's devices.
type role struct {
	name string // as in `kohaku NAME`
	unit string // of systemd
	plan func(file string) (takeover.Plan, error)
	path func(flag string) string // of its settings
}

var roles = []role{
	{"host", "kohakuriver-host.service", planHost, conf.HostPath},
	{"runner", "kohakuriver-runner.service", planRunner, conf.RunnerPath},
}

func planHost(file string) (takeover.Plan, error) {
	cfg, _, err := loadHost(file)
	if err != nil {
		return nil, err
	}
	return takeover.PlanHost(takeover.Kernel{}, cfg.Overlay)
}

func planRunner(file string) (takeover.Plan, error) {
	cfg, _, err := loadRunner(file)
	if err != nil {
		return nil, err
	}
	return takeover.PlanRunner(takeover.Kernel{}, cfg.Overlay)
}

func (a *app) migrateCommand() *cobra.Command {
	var (
		file           string
		dryRun, asJSON bool
	)
	c := &cobra.Command{
		Use:   "migrate [host|runner]",
		Short: "Take over from kernel VXLAN devices of an earlier overlay",
		Long: `Shows the kernel's VXLAN devices on this machine with what becomes of each, and
then, without --dry-run, restarts the daemon's unit: the daemon takes over when it
starts. Ids, VNIs, remotes and addresses stay; connections survive the moment
between. The machines of a cluster can be taken over one at a time, in any order:
ours and the kernel's work together.

Devices of other overlays are never touched. One that holds the UDP port is named,
and nothing is done. First stop what made the kernel's devices, or it may make them
again. What is not said (host or runner) is seen from which settings file exists.`,
		GroupID: groupSetup,
		Args:    args(0, 1, "host or runner"),
		RunE: func(c *cobra.Command, given []string) error {
			r, err := findRole(c, given)
			if err != nil {
				return err
			}
			plan, err := lookAt(r, file)
			if err != nil {
				return err
			}
			// With --json there is one value: the plan, or what is left of it.
			nothing := dryRun || plan.Err() != nil || len(plan.Changes()) == 0
			if nothing || !asJSON {
				a.printPlan(r, plan, asJSON)
			}
			switch {
			case plan.Err() != nil:
				return errUnhealthy
			case nothing:
				return nil
			}
			return a.migrate(c.Context(), r, file, asJSON)
		},
	}
	c.Flags().StringVar(&file, "config", "", "read settings from `FILE` (else those that the daemon would read)")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would be done")
	jsonFlag(c, &asJSON)
	return c
}

// findRole is the role that is asked for, or the one that has a settings file.
func findRole(c *cobra.Command, given []string) (role, error) {
	var found []role
	for _, r := range roles {
		if len(given) > 0 {
			if given[0] == r.name {
				return r, nil
			}
			continue
		}
		if _, err := os.Stat(r.path("")); err == nil {
			found = append(found, r)
		}
	}
	switch {
	case len(given) > 0:
		return role{}, usagef(c.CommandPath(), "%q is neither host nor runner", given[0])
	case len(found) == 1:
		return found[0], nil
	}
	return role{}, usagef(c.CommandPath(), "host or runner? %d of host.toml and runner.toml exist, so it has to be said: %s host, or %s runner",
		len(found), c.CommandPath(), c.CommandPath())
}

// dryRun is what --dry-run of a daemon does.
func (a *app) dryRun(name, file string, asJSON bool) error {
	for _, r := range roles {
		if r.name != name {
			continue
		}
		plan, err := lookAt(r, file)
		if err != nil {
			return err
		}
		a.printPlan(r, plan, asJSON)
		if plan.Err() != nil {
			return errUnhealthy
		}
	}
	return nil
}

// lookAt makes a role's plan.
func lookAt(r role, file string) (takeover.Plan, error) {
	plan, err := r.plan(file)
	if _, ok := errors.AsType[*link.Error](err); ok {
		return nil, &failure{tried: "look at the kernel's VXLAN devices", cause: err}
	}
	return plan, err
}

// planJSON is a plan for programs.
type planJSON struct {
	Role    string     `json:"role"`
	Blocked bool       `json:"blocked"` // a device is in the way
	Devices []stepJSON `json:"devices"`
}

type stepJSON struct {
	Device    string           `json:"device"`
	VNI       uint32           `json:"vni"`
	Remote    netip.Addr       `json:"remote"`
	Local     netip.Addr       `json:"local"`
	Port      uint16           `json:"port"`
	MTU       int              `json:"mtu"`
	Addresses []netip.Prefix   `json:"addresses"`
	Bridge    string           `json:"bridge,omitempty"`
	Up        bool             `json:"up"`
	Decision  takeover.Verdict `json:"decision"`
	RunnerID  int              `json:"runner_id,omitempty"`
	Why       string           `json:"why"`
}

func (a *app) printPlan(r role, plan takeover.Plan, asJSON bool) {
	if asJSON {
		out := planJSON{Role: r.name, Blocked: plan.Err() != nil, Devices: []stepJSON{}}
		for _, s := range plan {
			out.Devices = append(out.Devices, stepJSON{
				Device: s.Name, VNI: s.VNI, Remote: s.Remote, Local: s.Local, Port: s.Port, MTU: s.MTU, Up: s.Up,
				Addresses: append([]netip.Prefix{}, s.Addrs...), Bridge: s.Master, Decision: s.Verdict, RunnerID: s.ID, Why: s.Why,
			})
		}
		a.out.json(out)
		return
	}
	changes := len(plan.Changes())
	switch {
	case len(plan) == 0:
		a.out.linef("the kernel has no VXLAN devices here: kohaku %s has nothing to take over", r.name)
		return
	case plan.Err() != nil:
		a.out.linef("%s", a.out.in(red, fmt.Sprintf("kohaku %s would refuse to start, and touch nothing: a kernel VXLAN device is in the way", r.name)))
	case changes == 0:
		a.out.linef("kohaku %s has nothing to take over", r.name)
	default:
		a.out.linef("kohaku %s takes over from %s", r.name, count(changes, "kernel VXLAN device"))
	}
	colours := map[takeover.Verdict]paint{takeover.Take: green, takeover.Remove: yellow, takeover.Blocks: red}
	var rows [][]cell
	for _, s := range plan {
		var addrs []string
		for _, p := range s.Addrs {
			addrs = append(addrs, p.String())
		}
		if s.Master != "" {
			addrs = append(addrs, "in "+s.Master)
		}
		rows = append(rows, append(cells(s.Name, fmt.Sprint(s.VNI), address(s.Remote), fmt.Sprint(s.Port), orDash(strings.Join(addrs, ","))),
			cell{string(s.Verdict), colours[s.Verdict]}, cell{text: s.Why}))
	}
	a.out.table([]string{"DEVICE", "VNI", "REMOTE", "PORT", "ADDRESS", "DECISION", "WHY"}, rows)
}

// migrate has the daemon take over, by a restart of its unit, and looks whether it
// did.
func (a *app) migrate(ctx context.Context, r role, file string, asJSON bool) error {
	by := "systemctl restart " + r.unit
	byHand := fmt.Sprintf("start the daemon in another way, it takes over when it starts: kohaku %s", r.name)
	if file != "" {
		// The unit reads its own settings.
		return &failure{tried: "have the unit " + r.unit + " take over with the settings of " + file,
			cause: errors.New("the unit reads the settings at " + r.path("")), next: byHand + " --config " + file}
	}
	if out, err := exec.CommandContext(ctx, "systemctl", "restart", r.unit).CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return errInterrupted
		}
		if text := strings.TrimSpace(string(out)); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return &failure{tried: by, cause: err, next: "see what it says: journalctl -u " + r.unit + "\n" + byHand}
	}
	after, err := r.plan(file)
	if err != nil {
		return &failure{tried: "look at the kernel's VXLAN devices again", cause: err}
	}
	if left := after.Changes(); len(left) > 0 || after.Err() != nil {
		return &failure{tried: "take over from the kernel's devices", cause: fmt.Errorf("after %s, %s still there", by, isAre(left)),
			next: "see what the daemon says: journalctl -u " + r.unit}
	}
	if asJSON {
		a.printPlan(r, after, true)
		return nil
	}
	a.out.linef("%s has taken over; `kohaku status` shows the overlay", r.unit)
	return nil
}

func isAre(steps []takeover.Step) string {
	var names []string
	for _, s := range steps {
		names = append(names, s.Name)
	}
	if len(names) == 1 {
		return names[0] + " is"
	}
	return strings.Join(names, ", ") + " are"
}
