// SPDX-License-Identifier: Apache-2.0

// Package cli holds kohaku's commands and what they print. It contains no logic
// of its own: daemons are in hostd and runnerd, the data plane in engine, the
// demonstration in internal/demo.
package cli

import (
	"context"
	"errors"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// app is what the commands share. One app serves one Main call.
type app struct {
	in          io.Reader
	out, errOut *printer
}

// Main runs one command line (without the program's name) and returns the exit
// status for it. SIGINT and SIGTERM cancel the context that the commands see; a
// second one ends the process in the default way, so that nobody is ever stuck.
func Main(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)

	a := &app{in: in, out: newPrinter(out), errOut: newPrinter(errOut)}
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil && a.out.err != nil {
		err = &failure{tried: "write the result to standard output", cause: a.out.err}
	}
	return report(a.errOut, err)
}

const (
	groupDaemons = "daemons"
	groupLook    = "look"
	groupSetup   = "setup"
)

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "kohaku",
		Short: "One network for the containers of several Linux machines",
		Long: `kohaku joins the containers of several Linux machines into one network, with
VXLAN tunnels (RFC 7348) that it makes itself: no kernel VXLAN module, and a
kernel VXLAN device at the other end cannot tell the difference.

To see it work on this machine alone:  kohaku demo`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       currentVersion().Version,
		Args:          subcommandOnly,
		RunE:          needSubcommand,
	}
	root.AddGroup(
		&cobra.Group{ID: groupDaemons, Title: "Run it:"},
		&cobra.Group{ID: groupLook, Title: "Look at it and change it:"},
		&cobra.Group{ID: groupSetup, Title: "Set it up:"},
	)
	root.SetHelpCommandGroupID(groupSetup)
	root.SetCompletionCommandGroupID(groupSetup)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &usageError{c.CommandPath(), err}
	})
	root.AddCommand(
		a.hostCommand(), a.runnerCommand(), a.tunnelCommand(), a.demoCommand(),
		a.statusCommand(), a.nodeCommand(), a.tokenCommand(), a.perfCommand(),
		a.configCommand(), a.migrateCommand(), a.resetCommand(), a.versionCommand(),
		&cobra.Command{
			Use:   "exit-codes",
			Short: "What the exit status of a command means",
			Long:  exitCodes,
		},
	)
	return root
}

// subcommandOnly is the Args of a command that only holds others. Cobra accepts
// any argument below the root, and "kohaku node overlya" must not print help and
// succeed.
func subcommandOnly(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := ""
	c.SuggestionsMinimumDistance = 2
	for _, s := range c.SuggestionsFor(args[0]) {
		msg += "\n  did you mean: " + c.CommandPath() + " " + s
	}
	return usagef(c.CommandPath(), "unknown command %q%s", args[0], msg)
}

// needSubcommand is the RunE of a command that only holds others.
func needSubcommand(c *cobra.Command, _ []string) error {
	c.SetOut(c.ErrOrStderr())
	if err := c.Help(); err != nil {
		return err
	}
	return &silent{exitUsage}
}

// args checks the number of positional arguments; names are those of the usage
// line.
func args(minimum, maximum int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, given []string) error {
		switch {
		case len(given) < minimum:
			return usagef(c.CommandPath(), "%s: missing argument, expected %s", c.CommandPath(), names)
		case maximum >= 0 && len(given) > maximum:
			return usagef(c.CommandPath(), "%s: unexpected argument %q", c.CommandPath(), given[maximum])
		}
		return nil
	}
}

// noArgs refuses every positional argument.
func noArgs() cobra.PositionalArgs { return args(0, 0, "") }

// jsonFlag gives a command the --json flag that every printing command has.
func jsonFlag(c *cobra.Command, to *bool) {
	c.Flags().BoolVar(to, "json", false, "print one JSON value")
}

// isCancel reports whether err only says that the command was told to stop.
func isCancel(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled))
}
