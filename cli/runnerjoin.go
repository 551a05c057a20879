// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/machine"
	"kohaku/internal/statefile"
	"kohaku/internal/trust"
)

// joinFlags are those of `kohaku runner` that make a Runner of a fresh machine.
type joinFlags struct {
	token, host string
	only        bool
}

func (f *joinFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.token, "join", "", "first join the Host with `TOKEN`, as kohaku token new prints it; - reads it from standard input")
	c.Flags().StringVar(&f.host, "host", "", "with --join: the Host's API at `ADDRESS:PORT`")
	c.Flags().BoolVar(&f.only, "join-only", false, "with --join: end after joining, for a service manager to run the daemon")
}

// joinFirst joins when --join asks for it. done: there is nothing more to do.
//
// What is written down is written when the Host has answered: a join that fails
// leaves the machine as it was, but for the key that a second attempt uses again.
func (a *app) joinFirst(c *cobra.Command, f joinFlags, file string) (done bool, err error) {
	if f.token == "" {
		if f.host != "" || f.only {
			return false, usagef(c.CommandPath(), "--host and --join-only go with --join")
		}
		return false, nil
	}
	token, err := a.readToken(c, f.token)
	if err != nil {
		return false, err
	}
	s, err := prepareSettings(c, f.host, conf.RunnerPath(file))
	if err != nil {
		return false, err
	}
	tried := "join the Host at " + s.runner.Runner.Host
	name, err := machine.Hostname(s.runner.Runner.Name)
	if err != nil {
		return false, &failure{tried: tried, cause: err}
	}
	id, err := machine.ID(s.runner.Runner.StateDir)
	if err != nil {
		return false, &failure{tried: tried, cause: err}
	}
	keeper := trust.NewKeeper(s.runner.Runner.StateDir, slog.New(slog.NewTextHandler(a.errOut.w, nil)))
	joined, err := a.alreadyJoined(c, keeper, token, name, s.runner.Runner.Host)
	if err != nil {
		return false, &failure{tried: tried, cause: err}
	}
	if !joined {
		err := api.Join(c.Context(), api.Joining{
			Host: s.runner.Runner.Host, Token: token, Name: name, Machine: id, Version: currentVersion().Version, Keeper: keeper,
		})
		if err != nil {
			return false, joinFailure(c, err, tried)
		}
		a.errOut.linef("joined the Host at %s as %s; the credential is in %s", s.runner.Runner.Host, name, s.runner.Runner.StateDir)
	}
	if err := a.keepSettings(s); err != nil {
		return false, err
	}
	return f.only, nil
}

// readToken takes the token from the command line, or with "-" from standard input,
// where ps does not show it.
func (a *app) readToken(c *cobra.Command, text string) (trust.Token, error) {
	if text == "-" {
		b, err := io.ReadAll(io.LimitReader(a.in, 4096))
		if err != nil {
			return trust.Token{}, &failure{tried: "read the join token from standard input", cause: err}
		}
		text = string(b)
	}
	token, err := trust.ParseToken(text)
	if err != nil {
		return trust.Token{}, usagef(c.CommandPath(), "--join: %v", err)
	}
	return token, nil
}

// joinSettings is runner.toml as it is to be.
type joinSettings struct {
	path   string
	isNew  bool
	was    string // runner.host before
	text   []byte // nil: as it is
	runner *conf.Runner
}

// prepareSettings reads runner.toml, or makes one up where there is none, with the
// Host's address from --host. Nothing is written.
func prepareSettings(c *cobra.Command, host, path string) (joinSettings, error) {
	s := joinSettings{path: path}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.isNew = true
		text = conf.RunnerSample()
	case err != nil:
		return s, &failure{tried: "read the settings in " + path, cause: err, code: exitConfig}
	}
	if host == "" {
		if s.isNew {
			return s, usagef(c.CommandPath(), "--host ADDRESS:PORT of the Host is missing, and there is no %s to take it from", path)
		}
		s.runner, err = conf.ParseRunner(path, text)
		return s, configFailure(kindRunner, path, err)
	}
	if old, err := conf.ParseRunner(path, text); err == nil && !s.isNew {
		s.was = old.Runner.Host
	}
	if s.text, s.runner, err = conf.SetRunnerHost(path, text, host); err != nil {
		// Is it the address, or was the file wrong before?
		if _, _, alone := conf.SetRunnerHost("--host", nil, host); alone != nil {
			if all, ok := errors.AsType[*conf.Error](alone); ok {
				alone = errors.New(all.Problems[0].Msg)
			}
			return s, usagef(c.CommandPath(), "--host %s: %v", host, alone)
		}
		return s, configFailure(kindRunner, path, err)
	}
	if s.was == s.runner.Runner.Host {
		s.text = nil
	}
	return s, nil
}

// keepSettings writes what prepareSettings made, if anything, and says so.
func (a *app) keepSettings(s joinSettings) error {
	var err error
	switch {
	case s.text == nil:
		return nil
	case s.isNew:
		err = statefile.Create(s.path, s.text, 0o644)
	default:
		// A link stays a link: what it leads to is replaced.
		real, linkErr := filepath.EvalSymlinks(s.path)
		info, statErr := os.Stat(s.path)
		if err = errors.Join(linkErr, statErr); err == nil {
			err = statefile.Write(real, s.text, info.Mode().Perm())
		}
	}
	switch {
	case err != nil:
		return &failure{tried: "write the settings", cause: err, next: "name another file with --config FILE, or run this as root; the join itself has succeeded"}
	case s.isNew:
		a.errOut.linef("wrote %s", s.path)
	case s.was == "":
		a.errOut.linef("set host = %q in %s", s.runner.Runner.Host, s.path)
	default:
		a.errOut.linef("changed host in %s from %q to %q", s.path, s.was, s.runner.Runner.Host)
	}
	return nil
}

// alreadyJoined reports whether this machine has a credential of the token's Host
// that makes the token unnecessary.
func (a *app) alreadyJoined(c *cobra.Command, k *trust.Keeper, t trust.Token, name, host string) (bool, error) {
	have, err := k.Current()
	if _, ok := errors.AsType[*trust.DamagedError](err); ok {
		return false, k.SetAside(err)
	}
	if err != nil || have == nil {
		return false, err
	}
	switch {
	case have.Fingerprint() != t.CA:
		a.errOut.linef("the credential here is of another Host, whose CA is %s; joining anew", have.Fingerprint())
		return false, nil
	case have.Name() != name:
		a.errOut.linef("the credential here is for the name %s, and this machine's is %s now; joining anew", have.Name(), name)
		return false, nil
	case have.Token == t.ID:
		a.errOut.linef("joined already, with this token")
		return true, nil
	}
	// A token that this credential is not of: it is needed if the credential is
	// void, and otherwise not to be wasted.
	client, err := api.NewClient(host, api.WithCredential(k))
	if err != nil {
		return false, err
	}
	defer client.Close()
	switch _, err := client.Credential(c.Context()); {
	case err == nil:
		a.errOut.linef("joined already; the token was not used")
		return true, nil
	case api.IsUnauthorized(err):
		a.errOut.linef("the credential here is void; joining anew: %v", err)
		return false, nil
	default:
		a.errOut.linef("joined already; the token was not used, as the Host did not say that it is needed: %v", err)
		return true, nil
	}
}

// joinFailure says why a join came to nothing.
func joinFailure(c *cobra.Command, err error, tried string) error {
	if _, ok := errors.AsType[*api.CallError](err); !ok {
		return &failure{tried: tried, cause: err}
	}
	err = callFailure(c, err)
	if f, ok := errors.AsType[*failure](err); ok {
		f.tried = tried
	}
	return err
}
