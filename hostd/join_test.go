// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/trust"
)

// secured is a Host with join = "token" that runs, on loopback.
type secured struct {
	*world
	addr    string
	admin   *api.Client
	invited string // the command announced on the first start
	stop    func()
}

// runSecured starts it; bind is an address without a port.
func runSecured(t *testing.T, w *world, bind string) *secured {
	t.Helper()
	w.cfg.Host.Join = conf.JoinToken
	w.cfg.Host.Bind = netip.AddrPortFrom(netip.MustParseAddr(bind), 0)
	s := &secured{world: w}
	o := w.options()
	ready := make(chan netip.AddrPort, 1)
	o.Ready = func(a netip.AddrPort) { ready <- a }
	announced := make(chan string, 1)
	o.Announce = func(c string, _ time.Time) { announced <- c }
	o.TrustClock = w.trustClock
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, w.cfg, o) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(s.stop)
	select {
	case a := <-ready:
		s.addr = a.String()
	case err := <-ended:
		ended <- err
		t.Fatalf("Run: %v", err)
	}
	s.admin = s.client("unix:" + w.cfg.Host.SocketPath())
	eventually(t, func() bool { // the announcement follows readiness
		select {
		case s.invited = <-announced:
		default:
		}
		l, err := s.admin.Tokens(t.Context())
		return err == nil && (s.invited != "" || len(l.Tokens) > 0 || strings.Contains(w.log.String(), "is gone") || strings.Contains(w.log.String(), "damaged"))
	})
	if s.invited == "" { // the first token is there a moment before it is announced
		select {
		case s.invited = <-announced:
		case <-time.After(200 * time.Millisecond):
		}
	}
	return s
}

func (s *secured) client(addr string, o ...api.Option) *api.Client {
	s.t.Helper()
	c, err := api.NewClient(addr, o...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

func (s *secured) token(q api.TokenRequest) trust.Token {
	s.t.Helper()
	a, err := s.admin.NewToken(s.t.Context(), q)
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := trust.ParseToken(a.Secret)
	if err != nil {
		s.t.Fatal(err)
	}
	if want := "kohaku runner --join " + a.Secret + " --host "; !strings.HasPrefix(a.Command, want) {
		s.t.Errorf("the command is %q", a.Command)
	}
	return token
}

// guest is a machine that wants to be a Runner.
type guest struct {
	*secured
	name, machine string
	keeper        *trust.Keeper
}

func (s *secured) guest(name, machine string) *guest {
	return &guest{s, name, machine, trust.NewKeeper(s.t.TempDir(), nil)}
}

// dialer dials from an address of its own, where there are many: what is limited
// for each address is another test's.
func (s *secured) dialer() *net.Dialer {
	if strings.HasPrefix(s.addr, "[") {
		return &net.Dialer{}
	}
	n := guests.Add(1)
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}}
}

var guests atomic.Uint32

func (g *guest) join(token trust.Token) error {
	return api.Join(g.t.Context(), api.Joining{Host: g.addr, Token: token, Name: g.name, Machine: g.machine, Keeper: g.keeper, Dialer: g.dialer()})
}

func (g *guest) mustJoin(token trust.Token) *api.Client {
	g.t.Helper()
	if err := g.join(token); err != nil {
		g.t.Fatal(err)
	}
	return g.api()
}

func (g *guest) api() *api.Client { return g.client(g.addr, api.WithCredential(g.keeper)) }

func (g *guest) register(c *api.Client, addr netip.Addr) api.RegisterAnswer {
	g.t.Helper()
	a, err := c.Register(g.t.Context(), request(g.name, g.machine, addr))
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}

// whole is everything that a refused call must not change: files, table, links.
func (s *secured) whole() map[string]any {
	s.t.Helper()
	all := make(map[string]any)
	err := filepath.WalkDir(s.cfg.Host.StateDir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		all[path], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	status, err := s.admin.Status(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range status.Allocations {
		status.Allocations[i].LastUsed = time.Time{} // heartbeats go on
	}
	all["status"] = status.Allocations
	if all["tokens"], err = s.admin.Tokens(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	if all["links"], err = s.kernel.Devices(); err != nil {
		s.t.Fatal(err)
	}
	all["tunnels"] = s.plane().Remotes()
	return all
}

// wantRefused asserts an answer's status and texts.
func wantRefused(t *testing.T, what string, err error, code int, parts ...string) {
	t.Helper()
	call, ok := errors.AsType[*api.CallError](err)
	if !ok || call.StatusCode != code {
		t.Errorf("%s: %v, want %d", what, err, code)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v does not say %q", what, err, p)
		}
	}
}

func TestJoinAndWork(t *testing.T) {
	for _, bind := range []string{"127.0.0.1", "::1"} {
		t.Run(bind, func(t *testing.T) {
			s := runSecured(t, newWorld(t), bind)
			ctx := t.Context()
			words := strings.Fields(s.invited)
			if len(words) != 6 || words[5] != s.addr {
				t.Fatalf("announced: %q; the API is at %s", s.invited, s.addr)
			}
			token, err := trust.ParseToken(words[3])
			if err != nil {
				t.Fatal(err)
			}
			g := s.guest("node1", runnerID)
			c := g.mustJoin(token)
			a := g.register(c, runnerAddr)
			beat := api.Heartbeat{MachineID: runnerID, RunnerID: a.RunnerID, Address: runnerAddr}
			if b, err := c.Heartbeat(ctx, "node1", beat); err != nil || b.RenewCredential {
				t.Errorf("heartbeat: %+v, %v", b, err)
			}
			if who, err := c.Credential(ctx); err != nil || who.RunnerName != "node1" || who.MachineID != runnerID {
				t.Errorf("credential: %+v, %v", who, err)
			}
			for name, client := range map[string]*api.Client{"runner": c, "admin": s.admin} {
				if st, err := client.Status(ctx); err != nil || len(st.Allocations) != 1 {
					t.Errorf("status for the %s: %v", name, err)
				}
			}

			// What a Runner may not do, over the network.
			_, err = c.Release(ctx, "node1")
			wantRefused(t, "release", err, 403, "administrator", "admin socket")
			_, err = c.Remove(ctx, "node1")
			wantRefused(t, "remove", err, 403, "administrator")
			_, err = c.Cleanup(ctx)
			wantRefused(t, "cleanup", err, 403, "administrator")
			_, err = c.NewToken(ctx, api.TokenRequest{})
			wantRefused(t, "token", err, 403, "administrator")
			_, err = c.Tokens(ctx)
			wantRefused(t, "tokens", err, 403, "administrator")
			_, err = c.OpenPerf(ctx)
			wantRefused(t, "measure", err, 403, "administrator")
			_, err = c.ReserveIP(ctx, api.ReserveRequest{Runner: "node1", TTL: 60})
			wantRefused(t, "reserve", err, 403, "administrator")
			_, err = c.Register(ctx, request("node2", otherID, otherAddr))
			wantRefused(t, "register another", err, 403, "that of runner node1", "node2")
			_, err = c.Register(ctx, request("node1", otherID, otherAddr))
			wantRefused(t, "register another machine", err, 403, runnerID, otherID)
			_, err = c.Heartbeat(ctx, "node2", beat)
			wantRefused(t, "heartbeat of another", err, 403, "that of runner node1")
			_, err = c.PerfTasks(ctx, "node2", api.PerfPoll{MachineID: runnerID, RunnerID: 1})
			wantRefused(t, "tasks of another", err, 403, "that of runner node1")

			// What anybody may do.
			nobody := &http.Client{Transport: &http.Transport{TLSClientConfig: token.JoinTLS()}}
			defer nobody.CloseIdleConnections()
			for path, code := range map[string]int{
				api.PathHealth: 200, api.PathStatus: 401, api.PathIPAvailable: 401, api.PathTokens: 401, "/nowhere": 404, "/debug/pprof/": 404,
				"//api/tokens": 307, "/api/x/../tokens": 307,
			} {
				nobody.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
				res, err := nobody.Get("https://" + s.addr + path)
				if err != nil {
					t.Fatal(err)
				}
				res.Body.Close()
				if res.StatusCode != code && !(code == 307 && res.StatusCode == 401) {
					t.Errorf("%s without a credential: %d, want %d", path, res.StatusCode, code)
				}
			}
			_, err = s.client("http://" + s.addr).Status(ctx)
			wantRefused(t, "plain HTTP", err, 401, "TLS", "kohaku token new")

			// Removed: refused at once, on the connections that there are.
			r, err := s.admin.Remove(ctx, "node1")
			if err != nil || !r.HadCredential || r.RunnerID != a.RunnerID {
				t.Errorf("remove: %+v, %v", r, err)
			}
			_, err = c.Heartbeat(ctx, "node1", beat)
			wantRefused(t, "a revoked runner", err, 401, "revoked", "kohaku token new")
			if _, ok := s.kernel.Get("vxkr1"); ok || len(s.plane().Remotes()) != 0 {
				t.Error("its tunnel is still there")
			}
			_, err = s.admin.Remove(ctx, "node1")
			wantRefused(t, "remove again", err, 404, "node1")

			// The machine joins with a fresh token, and the Host remembers over a restart.
			again := s.guest("node1", runnerID)
			again.register(again.mustJoin(s.token(api.TokenRequest{Uses: 1})), runnerAddr)
			s.stop()
			next := runSecured(t, s.world, bind)
			again.secured, g.secured = next, next
			if next.invited != "" {
				t.Error("the second start announces a token, too")
			}
			if _, err := again.api().Status(ctx); err != nil {
				t.Error(err)
			}
			_, err = g.api().Status(ctx)
			wantRefused(t, "the revoked credential after a restart", err, 401, "replaced")
		})
	}
}

// Each way to be refused has its message, and none leaves a trace on the Host.
func TestJoinRefused(t *testing.T) {
	w := newWorld(t)
	mono := &clock{now: time.Now()}
	start := mono.now
	w.trustClock = trust.Clock{Mono: func() time.Duration { return mono.Now().Sub(start) }, Wall: mono.Now}
	s := runSecured(t, w, "127.0.0.1")
	ctx := t.Context()
	good, short := s.token(api.TokenRequest{TTLSeconds: 7200}), s.token(api.TokenRequest{TTLSeconds: 60})
	once, gone := s.token(api.TokenRequest{Uses: 1, TTLSeconds: 7200}), s.token(api.TokenRequest{})
	if _, err := s.admin.RevokeToken(ctx, gone.ID); err != nil {
		t.Fatal(err)
	}
	first := s.guest("node1", runnerID)
	first.register(first.mustJoin(once), runnerAddr)
	removed := s.guest("node9", otherID)
	removed.mustJoin(good)
	if _, err := s.admin.Remove(ctx, "node9"); err != nil {
		t.Fatal(err)
	}
	// In the table, without a credential: as after join = "open".
	if _, err := s.admin.Register(ctx, request("node3", runnerID, otherAddr)); err != nil {
		t.Fatal(err)
	}
	mono.advance(2 * time.Minute)
	other := runSecured(t, newWorld(t), "127.0.0.1")
	alien := other.token(api.TokenRequest{})
	foreign := other.guest("node1", runnerID)
	foreign.mustJoin(alien)

	before := s.whole()
	cases := []struct {
		name string
		do   func() error
		code int
		says []string
	}{
		{"revoked token", func() error { return s.guest("node2", otherID).join(gone) }, 403, []string{"wrong join token", "kohaku token new"}},
		{"expired token", func() error { return s.guest("node2", otherID).join(short) }, 403, []string{"has expired", "kohaku token new"}},
		{"used-up token", func() error { return s.guest("node2", otherID).join(once) }, 403, []string{"used up", "kohaku token new"}},
		{"wrong CA", func() error { return s.guest("node2", otherID).join(alien) }, 0, []string{"another Host", good.CA.String(), alien.CA.String()}},
		{"second machine", func() error { return s.guest("node1", otherID).join(good) }, 409, []string{runnerID, otherID, "kohaku node remove node1"}},
		{"second machine, by its device", func() error { return s.guest("node3", otherID).join(good) }, 409, []string{runnerID, otherID, "kohaku node remove node3"}},
		{"in the place of one that is alive", func() error { return s.guest("node1", runnerID).join(good) }, 409, []string{"alive"}},
		{"revoked runner", func() error { _, err := removed.api().Status(ctx); return err }, 401, []string{"revoked", "join anew"}},
		{"credential of another Host", func() error {
			foreign.secured = s
			_, err := s.client(s.addr, api.WithCredential(foreign.keeper)).Status(ctx)
			return err
		}, 0, []string{"another Host"}},
		{"replayed", func() error { return s.replay(good) }, 403, []string{"another connection"}},
	}
	for _, c := range cases {
		err := c.do()
		if c.code != 0 {
			wantRefused(t, c.name, err, c.code, c.says...)
		} else {
			for _, part := range c.says {
				if err == nil || !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %v, want %q", c.name, err, part)
				}
			}
		}
		if diff := cmp.Diff(before, s.whole(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Fatalf("%s changed the Host:\n%s", c.name, diff)
		}
	}
	// The first one never noticed.
	if _, err := first.api().Status(ctx); err != nil {
		t.Error(err)
	}
}

// replay sends a join request that was recorded on one connection on another one,
// where everything is right but that.
func (s *secured) replay(token trust.Token) error {
	recorded := s.joinBody(s.dial(token), token, "node7")
	conn := s.dial(token)
	code, answer := s.post(conn, api.PathJoin, recorded)
	return &api.CallError{StatusCode: code, Message: answer}
}

// dial makes a TLS connection with a token.
func (s *secured) dial(token trust.Token) *tls.Conn {
	s.t.Helper()
	c, err := tls.DialWithDialer(s.dialer(), "tcp", s.addr, token.JoinTLS())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// joinBody makes a join request for a connection.
func (s *secured) joinBody(c *tls.Conn, token trust.Token, name string) []byte {
	s.t.Helper()
	state := c.ConnectionState()
	session, err := trust.SessionOf(&state)
	if err != nil {
		s.t.Fatal(err)
	}
	key, err := trust.NewKey()
	if err != nil {
		s.t.Fatal(err)
	}
	csr, err := trust.NewCSR(key)
	if err != nil {
		s.t.Fatal(err)
	}
	p := token.Prove(trust.Claim{Name: name, Machine: otherID, CSR: csr}, session)
	body, err := json.Marshal(api.JoinRequest{Token: p.TokenID, Hostname: name, MachineID: otherID, CSR: csr, Session: p.Session[:], Signature: p.Signature})
	if err != nil {
		s.t.Fatal(err)
	}
	return body
}

// post makes a call on a connection.
func (s *secured) post(c net.Conn, path string, body []byte) (int, string) {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodPost, "https://x"+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := req.Write(c); err != nil {
		s.t.Fatal(err)
	}
	return readAnswer(s.t, c)
}

func readAnswer(t *testing.T, c net.Conn) (int, string) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}
