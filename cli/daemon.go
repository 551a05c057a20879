// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"log/slog"
	"net/netip"
	"os"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"kohaku/hostd"
	"kohaku/perf/path/end"
	"kohaku/runnerd"
)

// runDaemon runs one of the daemons in the foreground until the context ends,
// which SIGTERM and SIGINT do. run calls ready once it serves; the supervisor
// learns that and the beginning of the end (sd_notify(3); without
// NOTIFY_SOCKET nobody is told and nothing is lost).
func (a *app) runDaemon(ctx context.Context, name string, level slog.Level, run func(ctx context.Context, log *slog.Logger, ready func()) error) error {
	log := slog.New(slog.NewTextHandler(a.errOut.w, &slog.HandlerOptions{Level: level, ReplaceAttr: withoutTimeInJournal()}))
	notify := func(state string) {
		if _, err := daemon.SdNotify(false, state); err != nil {
			log.Warn("the supervisor could not be told", "state", state, "error", err)
		}
	}
	stop := context.AfterFunc(ctx, func() { notify(daemon.SdNotifyStopping) })
	defer stop()
	v := currentVersion()
	log.Info("kohaku "+name+" starts", "version", v.Version, "go", v.Go, "kernel", v.Kernel)
	err := run(ctx, log, func() { notify(daemon.SdNotifyReady) })
	if err != nil && !isCancel(ctx, err) {
		return &failure{tried: "run kohaku " + name, cause: err}
	}
	return nil
}

// withoutTimeInJournal drops the time from log lines that journald stamps
// itself: systemd sets JOURNAL_STREAM for a service whose standard error is the
// journal.
func withoutTimeInJournal() func([]string, slog.Attr) slog.Attr {
	if os.Getenv("JOURNAL_STREAM") == "" {
		return nil
	}
	return func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
}

func (a *app) hostCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "host",
		Short: "The Host daemon: hands out subnets, joins all Runners' tunnels",
		Long: `Runs the Host in the foreground, as root: the API where Runners register, one
tunnel to each, and the routing between them. SIGTERM ends it; its devices stay,
and the next start takes them over. Settings: kohaku config show host.`,
		GroupID: groupDaemons,
		Args:    noArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, path, err := loadHost(file)
			if err != nil {
				return err
			}
			return a.runDaemon(c.Context(), "host", cfg.Host.LogLevel, func(ctx context.Context, log *slog.Logger, ready func()) error {
				logSettings(log, path)
				return hostd.Run(ctx, cfg, hostd.Options{Log: log, Meter: end.Meter{}, Ready: func(netip.AddrPort) { ready() }})
			})
		},
	}
	c.Flags().StringVar(&file, "config", "", "read settings from `FILE` (else ~/.kohakuriver/host.toml, /etc/kohakuriver/host.toml)")
	return c
}

func (a *app) runnerCommand() *cobra.Command {
	var file string
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
			cfg, path, err := loadRunner(file)
			if err != nil {
				return err
			}
			return a.runDaemon(c.Context(), "runner", cfg.Runner.LogLevel, func(ctx context.Context, log *slog.Logger, ready func()) error {
				logSettings(log, path)
				return runnerd.Run(ctx, cfg, runnerd.Options{Log: log, Meter: end.Meter{}, Ready: ready, Version: currentVersion().Version})
			})
		},
	}
	c.Flags().StringVar(&file, "config", "", "read settings from `FILE` (else ~/.kohakuriver/runner.toml, /etc/kohakuriver/runner.toml)")
	return c
}

func logSettings(log *slog.Logger, path string) {
	if path == "" {
		log.Info("there is no settings file: all settings are defaults", "see", "kohaku config show")
		return
	}
	log.Info("settings", "file", path)
}
