// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/trust"
)

// Join calls of one address are limited, whatever they say; those of another are
// not touched by that.
func TestJoinRate(t *testing.T) {
	s := runSecured(t, newWorld(t), "127.0.0.1")
	token := s.token(api.TokenRequest{})
	from := func(ip string) *net.Dialer { return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}} }
	attempt := func(d *net.Dialer) (int, string) {
		conn, err := tls.DialWithDialer(d, "tcp", s.addr, token.JoinTLS())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return s.post(conn, api.PathJoin, []byte("{}"))
	}
	refused := 0
	for range joinBurst + 10 {
		switch code, text := attempt(from("127.2.0.1")); {
		case code == http.StatusTooManyRequests && strings.Contains(text, "too many attempts"):
			refused++
		case code != http.StatusBadRequest:
			t.Errorf("%d %s", code, text)
		}
	}
	// One more may have been allowed meanwhile.
	if refused < 8 {
		t.Errorf("%d attempts were refused", refused)
	}
	if code, text := attempt(from("127.2.0.2")); code != http.StatusBadRequest {
		t.Errorf("another address: %d %s", code, text)
	}
}

// An address whose handshakes keep failing is turned away, and others are not.
func TestFailedHandshakes(t *testing.T) {
	w := newWorld(t)
	s := runSecured(t, w, "127.0.0.1")
	c := s.guest("node1", runnerID).mustJoin(s.token(api.TokenRequest{}))
	attempt := func() error {
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 3, 0, 1)}}).Dial("tcp", s.addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		return tls.Client(conn, trust.Token{CA: trust.Fingerprint{1}}.JoinTLS()).Handshake()
	}
	eventually(t, func() bool {
		err := attempt()
		if _, ok := errors.AsType[*trust.PinError](err); ok {
			return false
		}
		return err != nil // closed before anything was said
	})
	eventually(t, func() bool { return strings.Contains(w.log.String(), "too many of its TLS handshakes failed") })
	if _, err := c.Status(t.Context()); err != nil {
		t.Errorf("another address: %v", err)
	}
}

func TestGateBounds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(l, nil, 1, slog.New(slog.DiscardHandler))
	g.max = maxConnsPerAddress + 3
	var group sync.WaitGroup
	accepted := make(chan net.Conn, 1000)
	group.Go(func() {
		for {
			c, err := g.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	})
	defer group.Wait()
	defer g.Close()
	dial := func(ip string) net.Conn {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}).Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	// turned reports whether a connection is closed from the other side, which one
	// that was let in is not.
	turned := func(c net.Conn) bool {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := c.Read(make([]byte, 1))
		return err != nil && !errors.Is(err, errTimeout(err))
	}
	var in []net.Conn
	for range maxConnsPerAddress {
		dial("127.4.0.1")
		in = append(in, <-accepted)
	}
	if !turned(dial("127.4.0.1")) {
		t.Error("one address has more connections than it may")
	}
	for i := range 3 {
		dial(fmt.Sprint("127.4.0.", i+2))
		in = append(in, <-accepted)
	}
	if !turned(dial("127.4.0.9")) {
		t.Error("there are more connections than there may be")
	}
	// Who leaves makes room, however often he leaves.
	for range 3 {
		in[0].Close()
	}
	dial("127.4.0.1")
	in = append(in, <-accepted)
	if !turned(dial("127.4.0.1")) {
		t.Error("one that left made room for two")
	}
	for _, c := range in {
		c.Close()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total != 0 || len(g.per) != 0 {
		t.Errorf("%d connections are counted, of %d addresses", g.total, len(g.per))
	}
}

// errTimeout gives err if it is one of waiting too long, else an error that no
// other is.
func errTimeout(err error) error {
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return err
	}
	return errors.New("none")
}

// What is too large is refused before it is read to its end; who says nothing, or
// half of a header, is not waited for.
func TestSizesAndSilence(t *testing.T) {
	s := runSecured(t, newWorld(t), "127.0.0.1")
	token := s.token(api.TokenRequest{})
	for _, path := range []string{api.PathJoin} {
		if code, text := s.post(s.dial(token), path, []byte(`{"token":"`+strings.Repeat("x", api.MaxBody)+`"}`)); code != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	conn := s.dial(token)
	if _, err := fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*maxHeader)); err != nil {
		t.Fatal(err)
	}
	if code, _ := readAnswer(t, conn); code != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a large header: %d", code)
	}
	var group sync.WaitGroup
	silent := map[string]func() net.Conn{
		"half a header": func() net.Conn {
			c := s.dial(token)
			if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost:"); err != nil {
				t.Error(err)
			}
			return c
		},
		"no handshake": func() net.Conn {
			c, err := net.Dial("tcp", s.addr)
			if err != nil {
				t.Error(err)
			}
			return c
		},
	}
	for name, open := range silent {
		c := open()
		group.Go(func() {
			defer c.Close()
			// Long enough for a busy machine; the Host's own patience is 5 s.
			_ = c.SetReadDeadline(time.Now().Add(60 * time.Second))
			_, err := io.Copy(io.Discard, bufio.NewReader(c))
			if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
				t.Errorf("%s: the Host waits", name)
			}
		})
	}
	group.Wait()
}

// The limits hold in the open mode, too.
func TestOpenModeIsSaid(t *testing.T) {
	for range 2 { // at every start
		w := newWorld(t)
		client, _ := run(t, w)
		if !strings.Contains(w.log.String(), `level=WARN msg="join = \"open\"`) {
			t.Errorf("the log does not warn:\n%s", w.log)
		}
		admin, err := api.NewClient("unix:" + w.cfg.Host.SocketPath())
		if err != nil {
			t.Fatal(err)
		}
		defer admin.Close()
		if _, err := admin.Status(t.Context()); err != nil {
			t.Error(err)
		}
		for _, c := range []*api.Client{client, admin} {
			_, err := c.NewToken(t.Context(), api.TokenRequest{})
			wantRefused(t, "a token", err, 409, "open")
			_, err = c.Tokens(t.Context())
			wantRefused(t, "tokens", err, 409, "open")
		}
		if _, err := client.Register(t.Context(), request("node1", runnerID, runnerAddr)); err != nil {
			t.Error(err)
		}
		if r, err := client.Remove(t.Context(), "node1"); err != nil || r.HadCredential || r.RunnerID != 1 {
			t.Errorf("remove: %+v, %v", r, err)
		}
	}
}
