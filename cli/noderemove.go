// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"

	"github.com/spf13/cobra"

	"kohaku/internal/api"
)

func (a *app) nodeRemoveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove NAME",
		Short: "Revoke a runner's credential and free its id and subnet",
		Long: `Revokes the runner's credential and removes its tunnel on the Host, at once: for
a machine that is gone, or no longer trusted. It can come back with a join token
only (kohaku token new); one that it may still have is to be revoked, too. Run it
on the Host, as root.`,
		Args: args(1, 1, "NAME of a runner, as in kohaku node overlay"),
	}
	ask(a, c, func(ctx context.Context, client *api.Client) (api.RemoveAnswer, error) {
		return client.Remove(ctx, c.Flags().Arg(0))
	}, func(r api.RemoveAnswer) {
		name := api.Printable(r.Removed)
		if r.HadCredential {
			a.out.linef("removed %s: its credential is revoked", name)
		} else {
			a.out.linef("removed %s: it had no credential", name)
		}
		if r.RunnerID != 0 {
			a.out.linef("released %s: id %d is free again", name, r.RunnerID)
		}
	})
	return c
}
