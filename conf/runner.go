// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"log/slog"
	"net/netip"
)

// Runner is runner.toml: the settings of the Runner daemon.
type Runner struct {
	Runner  RunnerSection
	Overlay RunnerOverlay
	Docker  Docker
	Engine  Engine

	src *source // where the values came from; nil when built in code
}

// RunnerSection is [runner]: the daemon itself.
type RunnerSection struct {
	Host     string         // the Host's API as "address:port" or "name:port"; required
	Address  netip.Addr     // own underlay address; zero: the source of the route to the Host
	Name     string         // name the Host knows the runner by; "": the hostname
	StateDir string         // absolute path
	LogLevel slog.Level     // debug, info, warn or error
	Metrics  netip.AddrPort // see HostSection
}

// RunnerOverlay is [overlay] of the Runner. What is nil is whatever the Host
// says; what is set must agree with the Host, or the runner is refused.
type RunnerOverlay struct {
	Enabled     bool
	NetworkName string  // the Docker network's name
	Subnet      *Plan   // see HostOverlay
	VXLANID     *uint32 // see HostOverlay
	VXLANPort   *uint16 // see HostOverlay
	MTU         *int    // see HostOverlay
}

// Docker is [docker].
type Docker struct {
	Enabled bool   // false: the runner works without Docker
	Socket  string // "unix:///path" or "tcp://address:port"; "": DOCKER_HOST or the usual socket
}

// DefaultRunner returns the settings of an empty runner.toml. They are not
// complete: Runner.Host, which has no default, is "".
func DefaultRunner() *Runner {
	return &Runner{
		Runner:  RunnerSection{StateDir: defaultStateDir, LogLevel: slog.LevelInfo, Metrics: netip.MustParseAddrPort(defaultRunnerMetrics)},
		Overlay: RunnerOverlay{Enabled: true, NetworkName: DockerNetwork},
		Docker:  Docker{Enabled: true},
		Engine:  defaultEngine(false),
	}
}

// LoadRunner reads the Runner's settings from path; an empty path gives the
// defaults, in which Runner.Host is still to be filled in. What is wrong with
// the contents comes back as an *[Error]; a file that cannot be read matches
// the usual sentinels of io/fs.
func LoadRunner(path string) (*Runner, error) {
	if path == "" {
		return DefaultRunner(), nil
	}
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return ParseRunner(path, data)
}

// ParseRunner reads the Runner's settings from the text of a runner.toml; name
// stands for the file in messages. The error is an *[Error] with all problems.
func ParseRunner(name string, data []byte) (*Runner, error) {
	r := DefaultRunner()
	src, err := decode(name, data, r.schema())
	if err != nil {
		return nil, err
	}
	r.src = src
	return r, nil
}

// Validate checks settings that were built or changed in code, as
// [ParseRunner] checks a file. The error is an *[Error] without lines.
func (r *Runner) Validate() error { return validate("runner settings", r.schema()) }

// Equal reports whether r and o hold the same settings, wherever they came
// from.
func (r *Runner) Equal(o *Runner) bool {
	if r == nil || o == nil {
		return r == o
	}
	a, b := r.Overlay, o.Overlay
	return r.Runner == o.Runner && r.Docker == o.Docker && r.Engine == o.Engine &&
		a.Enabled == b.Enabled && a.NetworkName == b.NetworkName &&
		same(a.Subnet, b.Subnet) && same(a.VXLANID, b.VXLANID) &&
		same(a.VXLANPort, b.VXLANPort) && same(a.MTU, b.MTU)
}

func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// TOML prints all settings in force as a runner.toml that [ParseRunner] reads
// back to the same settings; the comment behind each says which line of which
// file it is from, or that it is the default. What is left to the Host is a
// comment line.
func (r *Runner) TOML() []byte { return render(r.schema(), DefaultRunner().schema(), r.src) }
