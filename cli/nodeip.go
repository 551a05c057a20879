// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kohaku/internal/api"
)

// nodeIPCommands are those about addresses of containers.
func (a *app) nodeIPCommands() []*cobra.Command {
	return []*cobra.Command{
		a.ipAvailableCommand(), a.ipReserveCommand(), a.ipReleaseCommand(), a.ipListCommand(), a.ipInfoCommand(),
	}
}

// ask is what the commands about addresses have in common: one call of the Host's
// API, printed as JSON or by show.
func ask[T any](a *app, c *cobra.Command, call func(context.Context, *api.Client) (T, error), show func(T)) {
	var (
		asJSON bool
		host   string
	)
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := findClient(c, host)
		if err != nil {
			return err
		}
		defer client.Close()
		answer, err := call(c.Context(), client)
		if _, ok := errors.AsType[*usageError](err); ok {
			return err
		}
		if err != nil {
			return callFailure(c, err)
		}
		if asJSON {
			a.out.json(answer)
		} else {
			show(answer)
		}
		return nil
	}
	jsonFlag(c, &asJSON)
	hostFlag(c, &host)
}

func (a *app) ipAvailableCommand() *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use:   "ip-available [RUNNER]",
		Short: "List addresses that containers could have",
		Long: `Lists the lowest free addresses of RUNNER, or of every runner: neither reserved
nor in use by a container. The network's, the gateway's (.1), the Host's (.254)
and the broadcast address are never among them.`,
		Args: args(0, 1, "RUNNER, as in kohaku node overlay"),
	}
	c.Flags().IntVar(&limit, "limit", 10, "list at most `N` addresses of each runner, 1 to 1000")
	ask(a, c, func(ctx context.Context, client *api.Client) (api.AvailableIPs, error) {
		if limit < 1 || limit > api.MaxAvailable {
			return api.AvailableIPs{}, usagef(c.CommandPath(), "--limit %d is outside 1..%d", limit, api.MaxAvailable)
		}
		return client.AvailableIPs(ctx, c.Flags().Arg(0), limit)
	}, func(s api.AvailableIPs) {
		var rows [][]cell
		for _, name := range slices.Sorted(maps.Keys(s.AvailableIPs)) {
			for _, ip := range s.AvailableIPs[name] {
				rows = append(rows, cells(api.Printable(name), ip.String()))
			}
			if len(s.AvailableIPs[name]) == 0 {
				rows = append(rows, []cell{{text: api.Printable(name)}, {"none", yellow}})
			}
		}
		for _, name := range s.Unknown {
			rows = append(rows, []cell{{text: api.Printable(name)}, {"not known before its next heartbeat", yellow}})
		}
		if len(rows) == 0 {
			a.out.linef("the Host has no runners")
			return
		}
		a.out.table([]string{"RUNNER", "FREE ADDRESS"}, rows)
	})
	return c
}

func (a *app) ipReserveCommand() *cobra.Command {
	var (
		ip   string
		ttl  time.Duration
		name string
	)
	c := &cobra.Command{
		Use:   "ip-reserve RUNNER",
		Short: "Keep an address for a container",
		Long: `Keeps an address on RUNNER from being given away, so that it is known before its
container is:

  kohaku node ip-reserve gpu-1 --name master
  docker run --network kohakuriver-overlay --ip ADDRESS ...     (on gpu-1)

The reservation ends when its time is over or when it is released with the token
that is printed, which is shown only once. While a container has the address its
time stands still; when the container ends, the whole time begins anew.

Docker does not know of reservations: a container without --ip gets the lowest
address that Docker thinks free. What the Host chooses is therefore from the top
of the subnet; give --ip only addresses that Docker will not come to by itself.`,
		Args: args(1, 1, "RUNNER, as in kohaku node overlay"),
	}
	c.Flags().StringVar(&ip, "ip", "", "reserve this `ADDRESS` (else the Host chooses)")
	c.Flags().DurationVar(&ttl, "ttl", 0, "keep it for this long, 1s to 24h (default 5m)")
	c.Flags().StringVar(&name, "name", "", "note that it is for the container `NAME`")
	c.Flags().StringVar(&name, "container", "", "the same as --name")
	ask(a, c, func(ctx context.Context, client *api.Client) (api.ReserveAnswer, error) {
		q := api.ReserveRequest{Runner: c.Flags().Arg(0), TTL: ttl.Seconds(), Name: name}
		if ip != "" {
			var err error
			if q.IP, err = netip.ParseAddr(ip); err != nil {
				return api.ReserveAnswer{}, usagef(c.CommandPath(), "--ip %q is not an address", ip)
			}
		}
		if c.Flags().Changed("name") && c.Flags().Changed("container") {
			return api.ReserveAnswer{}, usagef(c.CommandPath(), "--name and --container are the same: give one of them")
		}
		if ttl < 0 || c.Flags().Changed("ttl") && ttl == 0 {
			return api.ReserveAnswer{}, usagef(c.CommandPath(), "--ttl %s is not a time to keep something for", ttl)
		}
		return client.ReserveIP(ctx, q)
	}, func(r api.ReserveAnswer) {
		a.out.linef("reserved %s on %s for %s, until %s", r.IP, api.Printable(r.Runner), seconds(r.TTL), r.ExpiresAt.Local().Format(time.DateTime))
		a.out.linef("  use it     docker run --network kohakuriver-overlay --ip %s ...   (on %s)", r.IP, api.Printable(r.Runner))
		a.out.linef("  release    kohaku node ip-release %s", api.Printable(r.Token))
	})
	return c
}

func (a *app) ipReleaseCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ip-release TOKEN",
		Short: "Give a reserved address back",
		Long: `Ends the reservation that TOKEN came with, before its time is over. TOKEN "-" is
read from standard input, so that it stands in no list of processes. An address
that a container has is not given back: stop the container first.`,
		Args: args(1, 1, "TOKEN, as kohaku node ip-reserve printed it"),
	}
	ask(a, c, func(ctx context.Context, client *api.Client) (api.ReleaseIPAnswer, error) {
		token := c.Flags().Arg(0)
		if token == "-" {
			line, err := bufio.NewReader(io.LimitReader(a.in, 4096)).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return api.ReleaseIPAnswer{}, &failure{tried: "read the token from standard input", cause: err}
			}
			token = strings.TrimSpace(line)
		}
		return client.ReleaseIP(ctx, token)
	}, func(r api.ReleaseIPAnswer) {
		a.out.linef("released %s on %s", r.IP, api.Printable(r.Runner))
	})
	return c
}

func (a *app) ipListCommand() *cobra.Command {
	var runner string
	c := &cobra.Command{
		Use:   "ip-list",
		Short: "List the reserved addresses",
		Args:  noArgs(),
	}
	c.Flags().StringVar(&runner, "runner", "", "only those of runner `NAME`")
	ask(a, c, func(ctx context.Context, client *api.Client) (api.Reservations, error) {
		return client.IPReservations(ctx, runner)
	}, func(s api.Reservations) {
		if len(s.Reservations) == 0 {
			a.out.linef("no address is reserved")
			return
		}
		var rows [][]cell
		for _, r := range s.Reservations {
			state, left := cell{r.State, yellow}, seconds(r.Remaining)
			if r.IsUsed {
				state, left = cell{r.State, green}, "-"
			}
			state.text = api.Printable(state.text)
			rows = append(rows, []cell{{text: api.Printable(r.Runner)}, {text: r.IP.String()}, state,
				{text: left}, {text: seconds(r.TTL)}, {text: orDash(api.Printable(r.Name))}})
		}
		a.out.table([]string{"RUNNER", "ADDRESS", "STATE", "LEFT", "TTL", "FOR"}, rows)
	})
	return c
}

func (a *app) ipInfoCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ip-info RUNNER",
		Short: "Sum up a runner's addresses",
		Args:  args(1, 1, "RUNNER, as in kohaku node overlay"),
	}
	ask(a, c, func(ctx context.Context, client *api.Client) (api.IPInfo, error) {
		return client.IPInfo(ctx, c.Flags().Arg(0))
	}, func(i api.IPInfo) {
		p := a.out
		p.linef("%s, id %d", api.Printable(i.RunnerName), i.RunnerID)
		p.linef("  Subnet      %s", i.Subnet)
		p.linef("  Gateway     %s", i.Gateway)
		p.linef("  Host on it  %s", i.HostOnSubnet)
		p.linef("  Containers  %s to %s, without the Host's", i.IPRange.First, i.IPRange.Last)
		if !i.Known {
			p.linef("  %s", p.in(yellow, "Which addresses are in use is not known before the runner's next heartbeat."))
		}
		p.linef("  Addresses   %d: %d available, %d reserved, %d in use", i.Total, i.Available, i.Reserved, i.Used)
	})
	return c
}

// seconds prints a number of them as a duration, rounded up.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if whole := d.Truncate(time.Second); whole < d {
		d = whole + time.Second
	}
	text := d.String()
	// 5m0s and 1h0m0s say more than they mean.
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
