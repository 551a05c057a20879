// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"kohaku/conf"
)

// kind tells the two settings files apart.
type kind string

const (
	kindHost   kind = "host"
	kindRunner kind = "runner"
)

func parseKind(command, s string) (kind, error) {
	switch kind(s) {
	case kindHost, kindRunner:
		return kind(s), nil
	}
	return "", usagef(command, "%q is neither host nor runner", s)
}

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "config",
		Short:   "Write, check and print the settings files",
		GroupID: groupSetup,
		Args:    subcommandOnly,
		RunE:    needSubcommand,
	}
	c.AddCommand(a.configInitCommand(), a.configCheckCommand(), a.configShowCommand())
	return c
}

// loadHost reads host.toml. Without --config a missing file means the defaults,
// and path is then empty.
func loadHost(flag string) (h *conf.Host, path string, err error) {
	path = conf.HostPath(flag)
	h, err = conf.LoadHost(path)
	if flag == "" && errors.Is(err, fs.ErrNotExist) {
		path = ""
		h, err = conf.LoadHost("")
	}
	return h, path, configFailure(kindHost, path, err)
}

// loadRunner reads runner.toml, which must exist: it names the Host.
func loadRunner(flag string) (r *conf.Runner, path string, err error) {
	path = conf.RunnerPath(flag)
	r, err = conf.LoadRunner(path)
	return r, path, configFailure(kindRunner, path, err)
}

// configFailure keeps all problems of a file together: a person mends them in
// one go.
func configFailure(k kind, path string, err error) error {
	var all *conf.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &all):
		return &failure{
			tried: "use the settings in " + path,
			cause: err,
			next:  "change what is named above, then: kohaku config check " + path,
			code:  exitConfig,
		}
	case errors.Is(err, fs.ErrNotExist):
		return &failure{
			tried: "read the " + string(k) + "'s settings",
			cause: errors.New(path + " does not exist"),
			next:  "kohaku config init " + string(k) + "   (or name another file with --config)",
			code:  exitConfig,
		}
	}
	return &failure{tried: "read the settings in " + path, cause: err, code: exitConfig}
}

type checkedFile struct {
	File     string         `json:"file"`
	Kind     kind           `json:"kind"`
	OK       bool           `json:"ok"`
	Problems []checkProblem `json:"problems"`
}

type checkProblem struct {
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Key     string `json:"key,omitempty"`
	Value   string `json:"value,omitempty"`
	Message string `json:"message"`
}

func (a *app) configCheckCommand() *cobra.Command {
	var (
		asJSON bool
		as     string
	)
	c := &cobra.Command{
		Use:   "check FILE...",
		Short: "Say everything that is wrong with settings files",
		Long: `Reads each FILE as host.toml or runner.toml, whichever its sections say, and
prints every problem with its line. Exit status 3 if there is one.`,
		Args: args(1, -1, "FILE..."),
		RunE: func(c *cobra.Command, files []string) error {
			forced := kind("")
			if as != "" {
				k, err := parseKind(c.CommandPath(), as)
				if err != nil {
					return err
				}
				forced = k
			}
			var results []checkedFile
			bad := false
			for _, f := range files {
				r := check(f, forced)
				bad = bad || !r.OK
				results = append(results, r)
			}
			if asJSON {
				a.out.json(results)
			} else {
				a.printChecks(results)
			}
			if bad {
				return errUnhealthy
			}
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	c.Flags().StringVar(&as, "as", "", "read the files as `host|runner` settings, whatever they look like")
	return c
}

func check(file string, forced kind) checkedFile {
	k := forced
	if k == "" {
		k = guessKind(file)
	}
	var err error
	if k == kindRunner {
		_, err = conf.LoadRunner(file)
	} else {
		_, err = conf.LoadHost(file)
	}
	r := checkedFile{File: file, Kind: k, OK: err == nil, Problems: []checkProblem{}}
	var all *conf.Error
	switch {
	case errors.As(err, &all):
		for _, p := range all.Problems {
			r.Problems = append(r.Problems, checkProblem{p.Line, p.Column, p.Key, p.Value, p.Msg})
		}
	case errors.Is(err, fs.ErrNotExist):
		r.Problems = append(r.Problems, checkProblem{Message: "no such file"})
	case err != nil:
		r.Problems = append(r.Problems, checkProblem{Message: err.Error()})
	}
	return r
}

// guessKind decides by the sections that only one of the files has, and where
// the text cannot be read by the file's name.
func guessKind(file string) kind {
	var sections map[string]any
	if _, err := toml.DecodeFile(file, &sections); err == nil {
		_, runner := sections["runner"]
		_, host := sections["host"]
		if runner != host {
			if runner {
				return kindRunner
			}
			return kindHost
		}
	}
	if strings.Contains(filepath.Base(file), "runner") {
		return kindRunner
	}
	return kindHost
}

func (a *app) printChecks(results []checkedFile) {
	bad := 0
	for _, r := range results {
		if r.OK {
			a.out.linef("%s: %s, %s settings", r.File, a.out.in(green, "ok"), r.Kind)
			continue
		}
		bad++
		for _, p := range r.Problems {
			where := conf.Problem{Line: p.Line, Column: p.Column, Key: p.Key, Value: p.Value, Msg: p.Message}
			a.out.linef("%s%s", r.File, where)
		}
	}
	if len(results) > 1 || bad > 0 {
		a.out.linef("%s checked, %d with problems", count(len(results), "file"), bad)
	}
}
