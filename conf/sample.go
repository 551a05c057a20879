// SPDX-License-Identifier: Apache-2.0

package conf

import (
	_ "embed"
	"slices"
)

// The samples are also in packaging/, for the packages that install them; a
// test keeps the copies alike.
var (
	//go:embed host.toml
	hostSample []byte
	//go:embed runner.toml
	runnerSample []byte
)

// HostSample returns a host.toml with every key explained, which parses to
// [DefaultHost]. The caller owns the copy.
func HostSample() []byte { return slices.Clone(hostSample) }

// RunnerSample returns a runner.toml with every key explained. It parses to
// [DefaultRunner] with the placeholder 192.168.88.53:8000 as Runner.Host. The
// caller owns the copy.
func RunnerSample() []byte { return slices.Clone(runnerSample) }
