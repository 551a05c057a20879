// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysctlRoot shows the network namespace of the thread that opens it, unlike /sys.
const sysctlRoot = "/proc/sys"

// EnsureSysctl writes a kernel setting, named by its path below /proc/sys such as
// "net/ipv4/ip_forward", when it differs. A setting that this kernel does not have
// (IPv6 switched off, say) matches fs.ErrNotExist.
func (Kernel) EnsureSysctl(path, value string) (changed bool, err error) {
	op := "set sysctl " + path + " to " + value
	file := filepath.Join(sysctlRoot, path)
	have, err := os.ReadFile(file)
	if err != nil {
		return false, fail(op, "", unwrapPath(err))
	}
	if strings.TrimSpace(string(have)) == value {
		return false, nil
	}
	// O_TRUNC is neither needed nor always allowed on these files.
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return false, fail(op, "", unwrapPath(err))
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err != nil {
		return false, fail(op, "", unwrapPath(err))
	}
	return true, nil
}

// unwrapPath drops the path from the error, which the operation already names.
func unwrapPath(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
