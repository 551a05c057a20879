// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Version is set by the build: -ldflags "-X kohaku/cli.Version=v1.2.3". Empty,
// what the Go tool noted in the binary is used.
var Version string

type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // VCS revision of the source
	Modified bool   `json:"modified,omitempty"` // the source had uncommitted changes
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Kernel   string `json:"kernel"` // of the machine it runs on; empty when unknown
}

func currentVersion() versionInfo {
	v := versionInfo{
		Version:  Version,
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		if v.Version == "" && info.Main.Version != "(devel)" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	if v.Version == "" {
		v.Version = "devel"
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		v.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return v
}

func (a *app) versionCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the versions of kohaku, Go and the running kernel",
		GroupID: groupSetup,
		Args:    noArgs(),
		RunE: func(*cobra.Command, []string) error {
			v := currentVersion()
			if asJSON {
				a.out.json(v)
				return nil
			}
			a.out.linef("kohaku %s", v.Version)
			if v.Revision != "" {
				changed := ""
				if v.Modified {
					changed = " with changes"
				}
				a.out.linef("source %s%s", v.Revision, changed)
			}
			a.out.linef("go     %s %s", v.Go, v.Platform)
			a.out.linef("kernel %s", v.Kernel)
			return nil
		},
	}
	jsonFlag(c, &asJSON)
	return c
}
