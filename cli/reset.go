// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/reset"
)

// resetResult is what `kohaku reset --json` prints.
type resetResult struct {
	DryRun bool          `json:"dry_run"`
	Things []reset.Thing `json:"things"`
}

func (a *app) resetCommand() *cobra.Command {
	var o reset.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "reset",
		Short: "Take away what kohaku's daemons made of this machine",
		Long: `Removes, from the machine that it runs on, the Docker network, the firewall rules
and the devices that kohaku's daemons made, and nothing else: devices are known by
their alias, rules by their comment, the network by its label or its bridge. What
containers use stays, and is named. Settings and state_dir stay, and so does what
was set in /proc/sys (ip_forward and such), since nobody knows who else needs it.

Stop the daemon first. On a Host this forgets which Runner has which id; Runners
that still run tell it again. Exit status 3 if something is left.`,
		Example: "  kohaku reset --dry-run\n  systemctl stop kohakuriver-runner && kohaku reset",
		GroupID: groupSetup,
		Args:    noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			o.DockerSocket = dockerSocket()
			things, err := reset.Run(c.Context(), o)
			var busy *reset.AtWorkError
			switch {
			case errors.As(err, &busy):
				return &failure{tried: "reset this machine", cause: err,
					next: "systemctl stop kohakuriver-host kohakuriver-runner   (or end the daemon that you started)"}
			case err != nil && !errors.Is(err, reset.ErrLeft):
				return &failure{tried: "reset this machine", cause: err}
			}
			if asJSON {
				if things == nil {
					things = []reset.Thing{}
				}
				a.out.json(resetResult{o.DryRun, things})
			} else {
				a.printReset(things, o.DryRun)
			}
			if err != nil {
				return errUnhealthy
			}
			return nil
		},
	}
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only show what would be removed")
	jsonFlag(c, &asJSON)
	return c
}

// dockerSocket is the one of runner.toml, if there is a usable one.
func dockerSocket() string {
	path := conf.RunnerPath("")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	r, err := conf.LoadRunner(path)
	if err != nil {
		return ""
	}
	return r.Docker.Socket
}

func (a *app) printReset(things []reset.Thing, dry bool) {
	if len(things) == 0 {
		a.out.linef("nothing of kohaku's is on this machine")
		return
	}
	did := "removed"
	if dry {
		did = "would be removed"
	}
	left := 0
	for _, t := range things {
		if t.Gone {
			a.out.linef("%s: %s %s", did, t.Kind, api.Printable(t.Name))
			continue
		}
		left++
		a.out.linef("%s: %s %s: %s", a.out.in(yellow, "left"), t.Kind, api.Printable(t.Name), api.Printable(t.Why))
	}
	if left > 0 {
		a.out.linef("%s left", count(left, "thing"))
	}
}
