// SPDX-License-Identifier: Apache-2.0

// Package machine says which machine this is: an id that stays the same for as
// long as the installation does, and the name it goes by.
package machine

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"kohaku/internal/api"
)

// IDFile is where systemd and D-Bus keep the machine's id, see machine-id(5).
const IDFile = "/etc/machine-id"

// fallbackName is the file in the state directory that stands in for IDFile.
const fallbackName = "machine-id"

// appID names this application in the hash below. It was drawn at random once and
// must never change: every identity derived so far would.
var appID = [16]byte{
	0x6b, 0xb1, 0x0f, 0x5e, 0x27, 0xc4, 0x4d, 0x3a, 0x9e, 0x81, 0x5d, 0x70, 0xf2, 0x1c, 0xa8, 0x46,
}

// ID gives this machine's id as 32 lower-case hex digits. machine-id(5) asks
// programs not to show the id itself to others, so a keyed hash of it is used.
//
// Where /etc/machine-id is missing or empty, a random id is made once and kept in
// stateDir, which is created when needed.
func ID(stateDir string) (string, error) { return id(IDFile, stateDir) }

func id(file, stateDir string) (string, error) {
	raw, err := readID(file)
	if err != nil {
		return "", err
	}
	if raw == nil {
		if raw, err = fallback(stateDir); err != nil {
			return "", err
		}
	}
	return derive(raw), nil
}

// derive is sd_id128_get_machine_app_specific(3): HMAC-SHA256 keyed by the machine
// id over the application's, cut to 128 bits, marked as a version 4 UUID.
func derive(raw []byte) string {
	mac := hmac.New(sha256.New, raw)
	mac.Write(appID[:])
	sum := mac.Sum(nil)[:16]
	sum[6] = sum[6]&0x0f | 0x40
	sum[8] = sum[8]&0x3f | 0x80
	return hex.EncodeToString(sum)
}

// readID gives the 16 bytes in file, or nil when there is no usable id in it: it
// does not exist, is empty, says "uninitialized" (early in a first boot), or holds
// something else.
func readID(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the machine id: %w", err)
	}
	raw, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(raw) != 16 || [16]byte(raw) == [16]byte{} {
		return nil, nil
	}
	return raw, nil
}

func fallback(dir string) ([]byte, error) {
	file := filepath.Join(dir, fallbackName)
	raw, err := readID(file)
	if raw != nil || err != nil {
		return raw, err
	}
	wrap := func(err error) error {
		return fmt.Errorf("this machine has no id in %s, and making one in %s failed: %w "+
			"(run systemd-machine-id-setup, or set state_dir to a directory this user may write)", IDFile, file, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, wrap(err)
	}
	raw = make([]byte, 16)
	rand.Read(raw)
	tmp, err := os.CreateTemp(dir, fallbackName+".*")
	if err != nil {
		return nil, wrap(err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(hex.EncodeToString(raw) + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, wrap(err)
	}
	// A link, unlike a rename, never replaces the id that another process of ours
	// made in the meantime; a damaged file is moved out of the way first.
	if err := os.Link(tmp.Name(), file); errors.Is(err, fs.ErrExist) {
		if theirs, err := readID(file); theirs != nil || err != nil {
			return theirs, err
		}
		if err := os.Rename(file, file+".damaged"); err != nil {
			return nil, wrap(err)
		}
		err = os.Link(tmp.Name(), file)
		if err != nil {
			return nil, wrap(err)
		}
	} else if err != nil {
		return nil, wrap(err)
	}
	return raw, nil
}

// Hostname gives the name under which this machine joins: configured, or else the
// kernel's hostname; checked and in canonical form, see api.CanonicalHostname.
func Hostname(configured string) (string, error) {
	source, name := "the configured name", configured
	if name == "" {
		source = "this machine's hostname"
		var err error
		if name, err = os.Hostname(); err != nil {
			return "", fmt.Errorf("read the hostname: %w (set `name` in the [runner] section)", err)
		}
	}
	canonical, err := api.CanonicalHostname(name)
	if err != nil {
		return "", fmt.Errorf("%s cannot be a runner's name: %w (set `name` in the [runner] section)", source, err)
	}
	if first, _, _ := strings.Cut(canonical, "."); first == "localhost" {
		return "", fmt.Errorf("%s is %q, which every machine may call itself (set a hostname, or `name` in the [runner] section)", source, canonical)
	}
	return canonical, nil
}
