// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/spf13/cobra"

	"kohaku/conf"
	"kohaku/hostd"
	"kohaku/perf/path/end"
	"kohaku/runnerd"
)

func (a *app) hostCommand() *cobra.Command {
	var (
		file        string
		dry, asJSON bool
	)
	c := &cobra.Command{
		Use:   "host",
		Short: "The Host daemon: hands out subnets, joins all Runners' tunnels",
		Long: `Runs the Host in the foreground, as root: the API where Runners register, one
tunnel to each, and the routing between them. SIGTERM ends it; its devices stay,
and the next start takes them over. Settings: kohaku config show host.`,
		GroupID: groupDaemons,
		Args:    noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if dry {
				return a.dryRun("host", file, asJSON)
			}
			cfg, path, err := loadHost(file)
			if err != nil {
				return err
			}
			settings, change := latest[*conf.Host]()
			return runDaemon(c.Context(), a, daemonSpec[*conf.Host]{
				name: "host", settings: cfg,
				load:  func() (*conf.Host, error) { h, _, err := loadHost(file); return h, err },
				level: func(h *conf.Host) slog.Level { return h.Host.LogLevel },
				apply: map[string]func(*conf.Host){"heartbeat.interval": change, "heartbeat.timeout_factor": change},
				run: func(ctx context.Context, s supervised) error {
					logSettings(s.log, path)
					return hostd.Run(ctx, cfg, hostd.Options{
						Log: s.log, Meter: end.Meter{}, Ready: func(netip.AddrPort) { s.ready() }, Announce: a.announceJoin,
						Metrics: s.metrics, Supervisor: s.supervisor, Live: s.live, Settings: settings,
					})
				},
			})
		},
	}
	c.Flags().StringVar(&file, "config", "", "read settings from `FILE` (else ~/.kohakuriver/host.toml, /etc/kohakuriver/host.toml)")
	dryRunFlags(c, &dry, &asJSON)
	return c
}

func (a *app) runnerCommand() *cobra.Command {
	var (
		file        string
		dry, asJSON bool
		join        joinFlags
	)
	c := &cobra.Command{
		Use:   "runner",
		Short: "The Runner daemon: joins this machine's containers to the overlay",
		Long: `Runs a Runner in the foreground, as root: registers with the Host, keeps the
tunnel, the bridge kohaku-overlay and the firewall in order. SIGTERM ends it; its
devices stay, and the next start takes them over. Settings: kohaku config show
runner.`,
		GroupID: groupDaemons,
		Args:    noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if dry {
				return a.dryRun("runner", file, asJSON)
			}
			if done, err := a.joinFirst(c, join, file); done || err != nil {
				return err
			}
			cfg, path, err := loadRunner(file)
			if err != nil {
				return err
			}
			return runDaemon(c.Context(), a, daemonSpec[*conf.Runner]{
				name: "runner", settings: cfg,
				load:  func() (*conf.Runner, error) { r, _, err := loadRunner(file); return r, err },
				level: func(r *conf.Runner) slog.Level { return r.Runner.LogLevel },
				run: func(ctx context.Context, s supervised) error {
					logSettings(s.log, path)
					return runnerd.Run(ctx, cfg, runnerd.Options{
						Log: s.log, Meter: end.Meter{}, Ready: s.ready, Version: currentVersion().Version,
						Metrics: s.metrics, Supervisor: s.supervisor, Live: s.live,
					})
				},
			})
		},
	}
	c.Flags().StringVar(&file, "config", "", "read settings from `FILE` (else ~/.kohakuriver/runner.toml, /etc/kohakuriver/runner.toml)")
	dryRunFlags(c, &dry, &asJSON)
	join.add(c)
	return c
}

// dryRunFlags are those with which a daemon only says what it would take over.
func dryRunFlags(c *cobra.Command, dry, asJSON *bool) {
	c.Flags().BoolVar(dry, "dry-run", false, "only show the kernel's VXLAN devices here and what would become of them")
	c.Flags().BoolVar(asJSON, "json", false, "with --dry-run: print one JSON value")
}

func logSettings(log *slog.Logger, path string) {
	if path == "" {
		log.Info("there is no settings file: all settings are defaults", "see", "kohaku config show")
		return
	}
	log.Info("settings", "file", path)
}
