// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"kohaku/internal/statefile"
)

// Files in a Runner's state directory.
const (
	CredentialFile = "credential.pem"
	// joinFile holds the key of a join under way, so that a Runner that did not
	// get the Host's answer asks for the same once more.
	joinFile = "join.pem"
)

// Keeper gives a Runner's credential as the file in its state directory has it at
// the moment: another process may join anew, and a daemon that runs goes on with
// what that got. It is safe for concurrent use.
type Keeper struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex
	seen    stamp
	current *Credential
	err     error
}

// stamp tells one version of a file from another: Replace makes a new inode.
type stamp struct {
	inode uint64
	size  int64
	mtime time.Time
}

// NewKeeper looks after the credential in a state directory. Nothing is read yet.
func NewKeeper(dir string, log *slog.Logger) *Keeper {
	if log == nil {
		log = slog.Default()
	}
	return &Keeper{dir: dir, log: log}
}

func (k *Keeper) path() string { return filepath.Join(k.dir, CredentialFile) }

// Log is where to tell what happens to the credential.
func (k *Keeper) Log() *slog.Logger { return k.log }

// DamagedError says that the file with the credential cannot be used.
type DamagedError struct {
	Path string
	Err  error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the credential in %s is damaged: %v", e.Path, e.Err)
}

// Unwrap gives what is wrong with it.
func (e *DamagedError) Unwrap() error { return e.Err }

// Current gives the credential, or nil when there is none. Equal pointers are equal
// credentials.
func (k *Keeper) Current() (*Credential, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	info, err := os.Stat(k.path())
	if errors.Is(err, fs.ErrNotExist) {
		k.current, k.err, k.seen = nil, nil, stamp{}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the credential: %w", err)
	}
	now := stamp{size: info.Size(), mtime: info.ModTime()}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		now.inode = s.Ino
	}
	if now == k.seen {
		return k.current, k.err
	}
	data, err := statefile.Read(k.path(), maxPEM)
	switch {
	case errors.Is(err, statefile.ErrTooLarge):
	case err != nil:
		return nil, fmt.Errorf("read the credential: %w", err)
	}
	var c *Credential
	if err == nil {
		c, err = decodeCredential(data)
	}
	if err != nil {
		c, err = nil, &DamagedError{k.path(), err}
	}
	k.current, k.err, k.seen = c, err, now
	return c, err
}

// Replace stores a credential in the place of what was there.
func (k *Keeper) Replace(c *Credential) error {
	if err := statefile.Write(k.path(), c.encode(), 0o600); err != nil {
		return fmt.Errorf("keep the credential: %w", err)
	}
	// The join that it came from, if it did, is over.
	if err := os.Remove(k.joinPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.log.Warn("the key of a join that is over was not removed", "error", err)
	}
	return nil
}

// SetAside moves a damaged credential out of the way and says so.
func (k *Keeper) SetAside(why error) error {
	aside, err := statefile.SetAside(k.path())
	if err == nil {
		k.log.Warn("the credential cannot be used and was set aside", "file", k.path(), "set_aside", aside, "error", why)
	}
	return err
}

func (k *Keeper) joinPath() string { return filepath.Join(k.dir, joinFile) }

// JoinKey gives the key to join with: a new one, or that of an earlier attempt with
// the same token. It is stored before it is used.
func (k *Keeper) JoinKey(t Token) (ed25519.PrivateKey, error) {
	if data, err := statefile.Read(k.joinPath(), maxPEM); err == nil && tokenIn(data) == t.ID {
		if key, certs, err := decodePEM(data); err == nil && len(certs) == 0 {
			return key, nil
		}
	}
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	data := append([]byte("A join under way.\n"+tokenLine+t.ID+"\n"), encodePEM(key)...)
	if err := statefile.Write(k.joinPath(), data, 0o600); err != nil {
		return nil, fmt.Errorf("keep the key to join with: %w (state_dir in the [runner] section must be a directory that this user may write)", err)
	}
	return key, nil
}
