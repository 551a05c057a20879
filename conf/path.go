// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFile bounds a settings file, in bytes. The samples have about 4 KiB.
const maxFile = 1 << 20

const systemDir = "/etc/kohakuriver"

// HostPath returns which host.toml to read: flag (the value of --config) when
// it is not empty; else ~/.kohakuriver/host.toml when that exists; else
// /etc/kohakuriver/host.toml, whether or not it exists. A service has no home
// directory, so for it the answer is the last one.
func HostPath(flag string) string { return pathOf(flag, "host.toml") }

// RunnerPath is [HostPath] for runner.toml.
func RunnerPath(flag string) string { return pathOf(flag, "runner.toml") }

func pathOf(flag, name string) string {
	if flag != "" {
		return flag
	}
	// A relative HOME would make the answer depend on the working directory.
	if home, err := os.UserHomeDir(); err == nil && filepath.IsAbs(home) {
		own := filepath.Join(home, ".kohakuriver", name)
		// A file that exists but cannot be read is meant, too: reading it then
		// says so, where falling back to /etc would hide it.
		if _, err := os.Stat(own); err == nil || errors.Is(err, fs.ErrPermission) {
			return own
		}
	}
	return filepath.Join(systemDir, name)
}

// readFile reads at most one byte more than a settings file may have; decode
// refuses the surplus.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read settings: %w; \"kohaku config init\" writes a file to start from", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	return data, nil
}
