// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kohaku/conf"
)

// sampleHostLine is the line of the Runner's sample that has no default: `--host`
// fills it in, and without it is commented out, so that "config check" asks for it.
const sampleHostLine = `host = "192.168.88.53:8000"`

func (a *app) configInitCommand() *cobra.Command {
	var (
		file, host string
		force      bool
	)
	c := &cobra.Command{
		Use:   "init host|runner",
		Short: "Write a settings file with every key explained",
		Long: `Writes a file with every key, its default and what it is for: as root to
/etc/kohakuriver, else to ~/.kohakuriver. A file that exists is left alone unless
--force is given. "--config -" prints it instead.`,
		Args:      args(1, 1, "host or runner"),
		ValidArgs: []string{string(kindHost), string(kindRunner)},
		RunE: func(c *cobra.Command, given []string) error {
			k, err := parseKind(c.CommandPath(), given[0])
			if err != nil {
				return err
			}
			text := string(conf.HostSample())
			if k == kindRunner {
				text = string(conf.RunnerSample())
				if host == "" {
					text = strings.Replace(text, sampleHostLine, "#"+sampleHostLine, 1)
				}
			}
			if host != "" {
				if k == kindHost {
					return usagef(c.CommandPath(), "--host is a setting of a runner, not of the host")
				}
				text = strings.Replace(text, sampleHostLine, "host = "+strconv.Quote(host), 1)
				if _, err := conf.ParseRunner("--host", []byte(text)); err != nil {
					return usagef(c.CommandPath(), "--host %s: %v", host, err)
				}
			}
			if file == "-" {
				a.out.write(text)
				return nil
			}
			if file == "" {
				if file, err = ownPath(k); err != nil {
					return err
				}
			}
			if err := writeNew(file, text, force); err != nil {
				return err
			}
			a.out.linef("wrote %s", file)
			if k == kindRunner && host == "" {
				a.out.linef("next: set host in it, then: kohaku config check %s", file)
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", "", "write to `FILE`; - is standard output")
	c.Flags().StringVar(&host, "host", "", "the Host's `ADDRESS:PORT`, for a runner")
	c.Flags().BoolVar(&force, "force", false, "replace a file that exists")
	return c
}

// ownPath is where a new file belongs: the machine's for root, else the
// person's own.
func ownPath(k kind) (string, error) {
	name := string(k) + ".toml"
	if os.Geteuid() == 0 {
		return filepath.Join("/etc/kohakuriver", name), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", &failure{tried: "find your home directory", cause: err, next: "name the file with --config FILE"}
	}
	return filepath.Join(home, ".kohakuriver", name), nil
}

// writeNew puts text at path in one step: a reader sees the whole file or none,
// and a crash leaves the old one. Without force an existing file is not
// replaced, also not one that appears meanwhile.
func writeNew(path, text string, force bool) (err error) {
	defer func() {
		switch {
		case errors.Is(err, fs.ErrExist):
			err = &failure{
				tried: "write " + path,
				cause: errors.New("it exists already"),
				next:  "kohaku config show, to see what is in force; --force replaces the file",
			}
		case err != nil:
			err = &failure{tried: "write " + path, cause: err, next: "name another file with --config FILE, or run this as root"}
		}
	}()
	if _, err := os.Lstat(path); err == nil && !force {
		return fs.ErrExist
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if force {
		return os.Rename(f.Name(), path)
	}
	// Unlike rename, link refuses to replace.
	return os.Link(f.Name(), path)
}
