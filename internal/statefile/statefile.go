// SPDX-License-Identifier: Apache-2.0

// Package statefile keeps the small files that must outlive a daemon: each is
// replaced as a whole or not at all, whenever the machine stops.
package statefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Write puts data at path with the permissions mode, in one step: who reads sees
// the old file or the new one, and after Write has returned nil the new one is
// there also after a power failure. When it fails the old file is untouched and
// nothing is left beside it. The directory is made when it is missing.
func Write(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, os.Rename)
}

// Create is Write for a file that must not be there yet: when there is one,
// also one that appears meanwhile, it stays, and the error is fs.ErrExist.
func Create(path string, data []byte, mode fs.FileMode) error {
	return write(path, data, mode, func(tmp, path string) error {
		// Unlike rename, link refuses to replace.
		if err := os.Link(tmp, path); err != nil {
			return err
		}
		return os.Remove(tmp)
	})
}

func write(path string, data []byte, mode fs.FileMode, place func(tmp, path string) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	sweep(path)
	// CreateTemp makes it with mode 0600: a secret is never readable by others,
	// also not for a moment.
	f, err := os.CreateTemp(dir, tempPrefix(path)+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = place(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, removeQuietly(f.Name()))
	}
	return syncDir(dir)
}

func removeQuietly(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func tempPrefix(path string) string { return "." + filepath.Base(path) + ".new-" }

// sweep removes what a writer that was killed left. There is one writer per file.
func sweep(path string) {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // whoever writes next learns it
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix(path)) {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// syncDir makes a rename in dir last (fsync(2)).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ErrTooLarge is what Read refuses a file of more than limit bytes with.
var ErrTooLarge = errors.New("the file is larger than it can be")

// Read gives the file's content, at most limit bytes of it. Whether there is none
// tells fs.ErrNotExist.
func Read(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("read %s: %w", path, ErrTooLarge)
	}
	return data, nil
}

// SetAside renames a file that cannot be used, so that a person can look at it,
// and gives its new name: ".damaged" is appended. One set aside earlier is
// replaced.
func SetAside(path string) (string, error) {
	aside := path + ".damaged"
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("set %s aside: %w", path, err)
	}
	return aside, syncDir(filepath.Dir(path))
}
