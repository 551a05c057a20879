// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kohaku/conf"
	"kohaku/internal/api"
)

func (a *app) nodeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "node",
		Short:   "The overlay's runners: list, release, clean up",
		GroupID: groupLook,
		Args:    subcommandOnly,
		RunE:    needSubcommand,
	}
	c.AddCommand(a.nodeOverlayCommand(), a.nodeReleaseCommand(), a.nodeCleanupCommand(), a.nodeRemoveCommand())
	c.AddCommand(a.nodeIPCommands()...)
	return c
}

func (a *app) nodeOverlayCommand() *cobra.Command {
	var (
		asJSON bool
		host   string
	)
	c := &cobra.Command{
		Use:   "overlay",
		Short: "Show the overlay and who has which subnet",
		Long: `Shows whether the overlay is enabled, its settings, and every runner with its
subnet, Active or Inactive. "kohaku status" shows the same with counters.
Exit status 3 if the overlay is not enabled or a runner is inactive.`,
		Args: noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			return a.showStatus(c, host, asJSON, a.printOverlay)
		},
	}
	jsonFlag(c, &asJSON)
	hostFlag(c, &host)
	return c
}

func (a *app) printOverlay(t target, s api.Status, now time.Time) {
	p := a.out
	if !s.Enabled {
		p.linef("%s", p.in(yellow, "Overlay not enabled"))
		p.linef("The Host at %s runs with enabled = false. To switch it on:", t.addr)
		p.linef("  1. on the Host, in %s:         [overlay]  enabled = true", "host.toml")
		p.linef("  2. on every Runner, in %s:  [overlay]  enabled = true", "runner.toml")
		p.linef("  3. sudo systemctl restart kohakuriver-host     (on the Host)")
		p.linef("     sudo systemctl restart kohakuriver-runner   (on every Runner)")
		return
	}
	p.linef("%s", p.in(green, "Overlay enabled"))
	p.linef("  Subnet       %s", api.Printable(s.SubnetConfig))
	p.linef("  Host IP      %s on %s", s.HostIP, conf.HostAddressDevice)
	p.linef("  VXLAN        base id %d, UDP port %d", s.Stats.BaseVXLANID, s.Stats.VXLANPort)
	p.linef("  MTU          %s", mtu(s.Stats.MTU))
	p.linef("  Allocations  %d: %d active, %d inactive; %d of %d ids available", s.Stats.TotalAllocations,
		s.Stats.ActiveAllocations, s.Stats.InactiveAllocations, s.Stats.AvailableIDs, s.Stats.MaxRunners)
	if len(s.Allocations) > 0 {
		p.linef("")
		var rows [][]cell
		for _, r := range s.Allocations {
			state := cell{"Active", green}
			if !r.IsActive {
				state = cell{"Inactive", yellow}
			}
			row := []cell{{text: api.Printable(r.RunnerName)}, state}
			row = append(row, cells(fmt.Sprint(r.RunnerID), r.Subnet.String(), address(r.Gateway),
				address(r.PhysicalIP), orDash(api.Printable(r.VXLANDevice)), ago(r.LastUsed, now))...)
			rows = append(rows, row)
		}
		p.table([]string{"RUNNER", "STATUS", "ID", "SUBNET", "GATEWAY", "PHYSICAL IP", "VXLAN", "LAST USED"}, rows)
	}
	if wrong := problems(s, now); len(wrong) > 0 {
		p.linef("\n%s", p.in(bold, "Problems"))
		for _, w := range wrong {
			p.linef("  %s", w)
		}
	}
}

func (a *app) nodeReleaseCommand() *cobra.Command {
	var (
		asJSON bool
		host   string
	)
	c := &cobra.Command{
		Use:   "overlay-release NAME",
		Short: "Free one runner's id and subnet",
		Long: `Frees the id and the subnet of runner NAME and removes its tunnel on the Host.
A runner that is alive registers again and may get another subnet; containers on
it then have addresses that no longer reach anything.`,
		Args: args(1, 1, "NAME of a runner, as in kohaku node overlay"),
		RunE: func(c *cobra.Command, given []string) error {
			client, err := findClient(c, host)
			if err != nil {
				return err
			}
			defer client.Close()
			answer, err := client.Release(c.Context(), given[0])
			if err != nil {
				return callFailure(c, err)
			}
			if asJSON {
				a.out.json(answer)
				return nil
			}
			was := "inactive"
			if answer.WasActive {
				was = "active"
			}
			a.out.linef("released %s: id %d is free again; the runner was %s", api.Printable(answer.Released), answer.RunnerID, was)
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	hostFlag(c, &host)
	return c
}

func (a *app) nodeCleanupCommand() *cobra.Command {
	var (
		asJSON bool
		host   string
	)
	c := &cobra.Command{
		Use:   "overlay-cleanup",
		Short: "Free the ids and subnets of all inactive runners",
		Args:  noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := findClient(c, host)
			if err != nil {
				return err
			}
			defer client.Close()
			answer, err := client.Cleanup(c.Context())
			if err != nil {
				return callFailure(c, err)
			}
			if asJSON {
				a.out.json(answer)
				return nil
			}
			if len(answer.Released) == 0 {
				a.out.linef("nothing to release")
			} else {
				a.out.linef("released %s: %s", count(len(answer.Released), "runner"), api.Printable(strings.Join(answer.Released, ", ")))
			}
			if len(answer.Kept) > 0 {
				a.out.linef("kept %s, which may be alive: the Host started a short while ago and has not heard of them yet: %s",
					count(len(answer.Kept), "runner"), api.Printable(strings.Join(answer.Kept, ", ")))
			}
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	hostFlag(c, &host)
	return c
}
