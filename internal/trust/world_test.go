// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

const (
	machineA = "0123456789abcdef0123456789abcdef"
	machineB = "fedcba9876543210fedcba9876543210"
)

// hands is a clock that the test moves: the calendar and the true time apart.
type hands struct {
	mu   sync.Mutex
	mono time.Duration
	wall time.Time
}

func (h *hands) clock() Clock {
	return Clock{
		Mono: func() time.Duration { h.mu.Lock(); defer h.mu.Unlock(); return h.mono },
		Wall: func() time.Time { h.mu.Lock(); defer h.mu.Unlock(); return h.wall },
	}
}

// pass lets time go by.
func (h *hands) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mono += d
	h.wall = h.wall.Add(d)
}

// jump sets the calendar.
func (h *hands) jump(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wall = h.wall.Add(d)
}

// world is a Host's state directory, with its clock.
type world struct {
	*Authority
	t     *testing.T
	dir   string
	hands *hands
	log   *bytes.Buffer
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), hands: &hands{wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}, log: &bytes.Buffer{}}
	w.open()
	return w
}

// open begins a new life of the Host. The monotonic clock starts anew, as at a boot.
func (w *world) open() {
	w.t.Helper()
	if err := w.tryOpen(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryOpen() error {
	w.hands.mu.Lock()
	w.hands.mono = 7 * time.Minute
	w.hands.mu.Unlock()
	a, err := Open(Options{Dir: w.dir, Log: slog.New(slog.NewTextHandler(w.log, nil)), Clock: w.hands.clock()})
	w.Authority = a
	return err
}

func (w *world) token(ttl time.Duration, uses int) Token {
	w.t.Helper()
	t, _, err := w.NewToken(ttl, uses)
	if err != nil {
		w.t.Fatal(err)
	}
	return t
}

// files gives the content of the whole directory.
func (w *world) files() map[string]string {
	w.t.Helper()
	all := make(map[string]string)
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(w.dir, e.Name()))
		if err != nil {
			w.t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

// joiner is a machine that joins.
type joiner struct {
	claim Claim
	key   ed25519.PrivateKey
}

func newJoiner(t *testing.T, name, machine string) joiner {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	return joiner{Claim{Name: name, Machine: machine, CSR: csr}, key}
}

var here = Session{1, 2, 3}

func anybody(bool) error { return nil }

func nobody(string) (string, bool) { return "", false }

// join admits a machine on the connection `here`.
func (w *world) join(j joiner, t Token) (*x509.Certificate, error) {
	der, err := w.Admit(t.Prove(j.claim, here), here, j.claim, anybody)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (w *world) mustJoin(j joiner, t Token) *x509.Certificate {
	w.t.Helper()
	c, err := w.join(j, t)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// check asserts what Check says of a certificate.
func (w *world) check(c *x509.Certificate, want error) {
	w.t.Helper()
	id, _, err := w.Check(c, nobody)
	if !errors.Is(err, want) || err == nil && (id.Name != c.Subject.CommonName || id.Machine != c.Subject.SerialNumber) {
		w.t.Errorf("Check: %+v, %v; want %v", id, err, want)
	}
}

// shake connects a client with that configuration to a server of the Host's.
func (w *world) shake(client *tls.Config) (clientState, serverState tls.ConnectionState, err error) {
	w.t.Helper()
	config, err := w.ServerTLS(nil, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return shakeWith(w.t, client, config)
}

func shakeWith(t *testing.T, client, server *tls.Config) (clientState, serverState tls.ConnectionState, err error) {
	t.Helper()
	// Not net.Pipe: each end may still write when the other has given up.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	there := tls.Server(b, server)
	done := make(chan error, 1)
	go func() {
		err := there.Handshake()
		if err != nil {
			b.Close()
		}
		done <- err
	}()
	conn := tls.Client(a, client)
	if err = conn.Handshake(); err != nil {
		a.Close()
	}
	serverErr := <-done
	if err == nil {
		err = serverErr
	}
	return conn.ConnectionState(), there.ConnectionState(), err
}
