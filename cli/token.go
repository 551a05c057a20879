// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kohaku/internal/api"
	"kohaku/internal/trust"
)

func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "token",
		Short: "Join tokens: make, list, revoke",
		Long: `A runner joins with a token. From then on it has a credential of its own, which
"kohaku node remove" revokes; the token's end does not touch it. These commands run
on the Host, as root.`,
		GroupID: groupLook,
		Args:    subcommandOnly,
		RunE:    needSubcommand,
	}
	c.AddCommand(a.tokenNewCommand(), a.tokenListCommand(), a.tokenRevokeCommand())
	return c
}

func (a *app) tokenNewCommand() *cobra.Command {
	var (
		ttl  time.Duration
		uses int
	)
	c := &cobra.Command{
		Use:   "new",
		Short: "Make a join token and print the command that uses it",
		Long: `Makes a token and prints the command to run on a runner. This is the only time
that it is shown: the Host does not keep it. Whoever has it can join a machine
until it ends.`,
		Example: "  kohaku token new --uses 1\n  kohaku token new --ttl 2h --json | jq -r .command",
		Args:    noArgs(),
	}
	c.Flags().DurationVar(&ttl, "ttl", trust.DefaultTTL, "how long it lets runners in, as in 30m or 72h")
	c.Flags().IntVar(&uses, "uses", 0, "how many runners it lets in; 0: any number")
	ask(a, c, func(ctx context.Context, client *api.Client) (api.NewToken, error) {
		switch {
		case ttl < time.Second || ttl > trust.MaxTTL:
			return api.NewToken{}, usagef(c.CommandPath(), "--ttl %v is outside 1s..%v", ttl, trust.MaxTTL)
		case uses < 0 || uses > trust.MaxUses:
			return api.NewToken{}, usagef(c.CommandPath(), "--uses %d is outside 0..%d", uses, trust.MaxUses)
		}
		return client.NewToken(ctx, api.TokenRequest{TTLSeconds: ttl.Seconds(), Uses: uses})
	}, func(t api.NewToken) {
		a.out.linef("Token %s, for %s, until %s. To join, run on the runner, as root:", api.Printable(t.ID), tokenUses(t.Uses), day(t.Expires))
		a.out.linef("")
		a.out.linef("  %s", api.Printable(t.Command))
	})
	return c
}

// announceJoin prints the command that the Host gives on its first start.
func (a *app) announceJoin(command string, until time.Time) {
	a.errOut.linef("")
	a.errOut.linef("To join runners, run on each of them, as root, until %s:", day(until))
	a.errOut.linef("")
	a.errOut.linef("  %s", command)
	a.errOut.linef("")
	a.errOut.linef("Another token: kohaku token new")
	a.errOut.linef("")
}

func tokenUses(n int) string {
	if n == 0 {
		return "any number of runners"
	}
	return count(n, "runner")
}

// day is a point in time for a person, in this machine's zone.
func day(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }

func (a *app) tokenListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List the join tokens",
		Long: `Lists the join tokens by id; their secrets are not kept. Those that have expired
are listed for a week.`,
		Args: noArgs(),
	}
	ask(a, c, func(ctx context.Context, client *api.Client) (api.TokenList, error) { return client.Tokens(ctx) }, func(l api.TokenList) {
		if len(l.Tokens) == 0 {
			a.out.linef("there is no join token; kohaku token new makes one")
			return
		}
		var rows [][]cell
		for _, t := range l.Tokens {
			uses := strconv.Itoa(t.Used)
			if t.Uses > 0 {
				uses = fmt.Sprintf("%d of %d", t.Used, t.Uses)
			}
			state := cell{api.Printable(t.State), green}
			if !t.Valid {
				state.paint = faint
			}
			rows = append(rows, []cell{{text: api.Printable(t.ID)}, state, {text: uses}, {text: day(t.Made)}, {text: day(t.Expires)}})
		}
		a.out.table([]string{"TOKEN", "STATE", "USED", "MADE", "EXPIRES"}, rows)
	})
	return c
}

func (a *app) tokenRevokeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "revoke ID",
		Short: "Make a join token useless",
		Long:  `Nobody joins with it any more. Runners that joined with it stay; see kohaku node remove.`,
		Args:  args(1, 1, "ID of a token, as in kohaku token list"),
	}
	ask(a, c, func(ctx context.Context, client *api.Client) (api.TokenRevoked, error) {
		id := c.Flags().Arg(0)
		// A whole token is taken, too: it may be all that somebody has of it.
		if t, err := trust.ParseToken(id); err == nil {
			id = t.ID
		}
		if err := trust.CheckTokenID(id); err != nil {
			return api.TokenRevoked{}, usagef(c.CommandPath(), "%v", err)
		}
		return client.RevokeToken(ctx, id)
	}, func(t api.TokenRevoked) {
		a.out.linef("revoked token %s", api.Printable(t.Revoked))
	})
	return c
}
