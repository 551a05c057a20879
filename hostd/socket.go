// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listenAdmin opens the admin socket. One that a Host left which was killed is
// replaced; of one that somebody answers at, and of a file that is no socket, the
// error says so.
func listenAdmin(ctx context.Context, path string, log *slog.Logger) (net.Listener, error) {
	const remedy = "set admin_socket in the [host] section"
	fail := func(err error) (net.Listener, error) {
		return nil, fmt.Errorf("listen for the administrator at %s: %w (%s)", path, err, remedy)
	}
	switch info, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fail(err)
	case info.Mode().Type() != fs.ModeSocket:
		return fail(errors.New("a file that is no socket is there"))
	default:
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return fail(errors.New("another Host answers there"))
		}
		if err := os.Remove(path); err != nil {
			return fail(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fail(err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fail(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fail(err)
	}
	return &adminListener{l, log}, nil
}

// adminListener lets only those in who may administer the Host: root, and the user
// that the Host runs as. The socket's mode says the same, a moment after it was
// made.
type adminListener struct {
	net.Listener
	log *slog.Logger
}

// Accept gives a *net.UnixConn.
func (l *adminListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c.(*net.UnixConn))
		if err == nil && (uid == 0 || uid == uint32(os.Geteuid())) {
			return c, nil
		}
		l.log.Warn("somebody who may not was turned away from the admin socket", "uid", uid, "error", err)
		c.Close()
	}
}

// peerUID tells who is at the other end (SO_PEERCRED, unix(7)).
func peerUID(c *net.UnixConn) (uid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	ctlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(ctlErr, err); err != nil {
		return 0, err
	}
	return cred.Uid, nil
}
