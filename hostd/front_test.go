// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/link"
	"kohaku/internal/trust"
)

func TestAdminSocket(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	path := filepath.Join(t.TempDir(), "deep", "host.sock")
	l, err := listenAdmin(t.Context(), path, log)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// Not beside a Host that lives.
	if _, err := listenAdmin(t.Context(), path, log); err == nil || !strings.Contains(err.Error(), "another Host") || !strings.Contains(err.Error(), "admin_socket") {
		t.Errorf("a second Host: %v", err)
	}
	// Of one that was killed the socket stays, and is replaced.
	l.(*adminListener).Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if l, err = listenAdmin(t.Context(), path, log); err != nil {
		t.Fatal(err)
	}
	l.Close()
	// Somebody's file is left alone.
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenAdmin(t.Context(), path, log); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("the file: %q, %v", b, err)
	}
}

// Other users do not get in, also when the socket's mode would let them.
func TestAdminSocketOfOthers(t *testing.T) {
	dir, err := os.MkdirTemp("", "s") // t.TempDir is for its owner alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	var log bytes.Buffer
	l, err := listenAdmin(t.Context(), path, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	asUser(t, 65534, func() {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Errorf("dial: %v", err)
			return
		}
		defer c.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("another user: %v", err)
		}
	})
	own, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	c := <-accepted
	if uid, err := peerUID(c.(*net.UnixConn)); err != nil || uid != 0 {
		t.Errorf("uid %d, %v", uid, err)
	}
	c.Close()
	l.Close()
	if _, more := <-accepted; more {
		t.Error("another user got in")
	}
	if !strings.Contains(log.String(), "uid=65534") {
		t.Errorf("the log says %s", log.String())
	}
}

// The credential is renewed by the Host's word, the new one replaces the old one,
// and nobody notices.
func TestRenewal(t *testing.T) {
	w := newWorld(t)
	mono := &clock{now: time.Now()}
	start := mono.now
	w.trustClock = trust.Clock{Mono: func() time.Duration { return mono.Now().Sub(start) }, Wall: mono.Now}
	s := runSecured(t, w, "127.0.0.1")
	g := s.guest("node1", runnerID)
	c := g.mustJoin(s.token(api.TokenRequest{}))
	a := g.register(c, runnerAddr)
	first, err := g.keeper.Current()
	if err != nil {
		t.Fatal(err)
	}
	beat := func() bool {
		t.Helper()
		b, err := c.Heartbeat(t.Context(), "node1", api.Heartbeat{MachineID: runnerID, RunnerID: a.RunnerID, Address: runnerAddr})
		if err != nil {
			t.Fatal(err)
		}
		return b.RenewCredential
	}
	if beat() {
		t.Error("a fresh credential is to be renewed")
	}
	for range 3 { // long past the age at which it would be refused
		mono.advance(trust.ExpireAfter / 2)
		was, err := g.keeper.Current()
		if err != nil {
			t.Fatal(err)
		}
		if !beat() {
			t.Error("an old credential is not to be renewed")
		}
		now, err := g.keeper.Current()
		if err != nil || now.Key.Equal(was.Key) {
			t.Fatalf("it was not renewed: %v\n%s", err, w.log)
		}
		if beat() {
			t.Error("the new credential is to be renewed at once")
		}
		c = g.api() // the client does not try twice within minutes, by its own clock
	}
	stolen := trust.NewKeeper(t.TempDir(), nil)
	if err := stolen.Replace(first); err != nil {
		t.Fatal(err)
	}
	_, err = s.client(s.addr, api.WithCredential(stolen)).Status(t.Context())
	wantRefused(t, "the first credential", err, 401, "replaced")
	mono.advance(trust.ExpireAfter)
	_, err = g.api().Status(t.Context())
	wantRefused(t, "one that was never renewed", err, 401, "expired")
}

// Where the Host cannot write, it says so, and nothing has changed.
func TestStateUnwritable(t *testing.T) {
	w := newWorld(t)
	s := runSecured(t, w, "127.0.0.1")
	token := s.token(api.TokenRequest{})
	g := s.guest("node1", runnerID)
	c := g.mustJoin(token)
	g.register(c, runnerAddr)
	before := s.whole()
	// A directory in its place: what was a file cannot be made there.
	dir := w.cfg.Host.StateDir
	if err := os.Rename(dir, dir+".aside"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.admin2(dir).NewToken(t.Context(), api.TokenRequest{})
	wantRefused(t, "token", err, 503, "nothing was changed", "not a directory", "state_dir")
	_, err = s.admin2(dir).Remove(t.Context(), "node1")
	wantRefused(t, "remove", err, 503, "nothing was changed")
	wantRefused(t, "join", s.guest("node2", otherID).join(token), 503, "nothing was changed", "not a directory")
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".aside", dir)); err != nil {
		t.Fatal(err)
	}
	after := s.whole()
	for k := range before {
		if b, ok := before[k].([]byte); ok && !bytes.Equal(b, after[k].([]byte)) {
			t.Errorf("%s has changed", k)
		}
	}
	if err := s.guest("node2", otherID).join(token); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// admin2 is a client of the admin socket where it went to.
func (s *secured) admin2(dir string) *api.Client {
	return s.client("unix:" + filepath.Join(dir+".aside", "host.sock"))
}

// The list of credentials is damaged: runners go on, by what their devices tell.
func TestStateDamaged(t *testing.T) {
	w := newWorld(t)
	s := runSecured(t, w, "127.0.0.1")
	token := s.token(api.TokenRequest{})
	kept, lost := s.guest("node1", runnerID), s.guest("node2", otherID)
	a := kept.register(kept.mustJoin(token), runnerAddr)
	lost.mustJoin(token)
	s.stop()
	if err := os.WriteFile(filepath.Join(w.cfg.Host.StateDir, trust.StateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = runSecured(t, w, "127.0.0.1")
	kept.secured, lost.secured = s, s
	if b := kept.register(kept.api(), runnerAddr); b.RunnerID != a.RunnerID {
		t.Errorf("another id: %+v", b)
	}
	_, err := lost.api().Status(t.Context())
	wantRefused(t, "who has no device", err, 401, "revoked")
	wantRefused(t, "the token", s.guest("node3", otherID).join(token), 403, "wrong join token")
	if !strings.Contains(w.log.String(), ".damaged") {
		t.Errorf("the log does not say where the file is:\n%s", w.log)
	}
}

func TestAdvertised(t *testing.T) {
	second := netip.MustParseAddr("192.168.99.53")
	for name, c := range map[string]struct {
		change func(w *world)
		want   string
	}{
		"reachable_address": {func(w *world) { w.cfg.Host.ReachableAddress = second }, "192.168.99.53:8000"},
		"bind":              {func(w *world) { w.cfg.Host.Bind = netip.AddrPortFrom(second, 8000) }, "192.168.99.53:8000"},
		"the route":         {func(w *world) {}, hostAddr.String() + ":8000"},
		"a device": {func(w *world) {
			w.kernel.SetPath(netip.Addr{}, link.Path{})
			w.kernel.Put(link.Info{Name: "kohaku-host", Up: true, Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}})
		}, hostAddr.String() + ":8000"},
		"IPv6": {func(w *world) {
			w.kernel.SetPath(netip.Addr{}, link.Path{Local: netip.MustParseAddr("fd00::1")})
		}, "[fd00::1]:8000"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			h := newHost(w.cfg, w.options())
			h.apiPort = 8000
			if got := h.advertised(); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// asUser runs f on a thread of another user, which ends with it.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
			t.Errorf("setresuid: %v", e)
			return
		}
		f()
	}()
	<-done
}
