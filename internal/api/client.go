// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"kohaku/internal/trust"
)

// CallTimeout bounds one call, from dialling to the last byte of the answer.
const CallTimeout = 5 * time.Second

// Client calls the Host's API. It is safe for concurrent use.
type Client struct {
	// Constant.
	addr   string // ADDRESS:PORT, or the path of a socket
	socket bool
	plain  bool // http:// was asked for
	dialer *net.Dialer
	keeper *trust.Keeper // nil: no credential

	mu      sync.Mutex
	line    *line
	renewed time.Time // the last attempt to renew the credential
}

// line is how the Host is spoken to, with one credential or none.
type line struct {
	base       string // of URLs
	show       string // the same for a person
	credential *trust.Credential
	http       *http.Client
	patient    *http.Client // for calls whose answer takes its time
}

// Option changes how a Client speaks with the Host.
type Option func(*Client)

// WithCredential makes a Client use the credential that the keeper has at the
// moment: TLS, to the Host of that CA and no other. While it has none the Client
// speaks plain HTTP, as to a Host with join = "open". It renews the credential when
// the Host asks for it.
func WithCredential(k *trust.Keeper) Option { return func(c *Client) { c.keeper = k } }

// WithDialer makes a Client use a dialer: for one of several addresses of this
// machine, say.
func WithDialer(d *net.Dialer) Option { return func(c *Client) { c.dialer = d } }

// NewClient makes a client for the API at addr: "host:port"; "http://host:port",
// which is plain HTTP whatever the options say; or "unix:PATH", the Host's admin
// socket on this machine. Nothing is dialled yet. Proxies from the environment are
// not used: the Host is on the underlay.
func NewClient(addr string, options ...Option) (*Client, error) {
	c := &Client{dialer: &net.Dialer{Timeout: CallTimeout}}
	for _, o := range options {
		o(c)
	}
	if c.addr, c.socket = strings.CutPrefix(addr, "unix:"); c.socket {
		if c.addr == "" {
			return nil, fmt.Errorf("the address %q names no socket", addr)
		}
		return c, nil
	}
	addr, c.plain = strings.CutPrefix(addr, "http://")
	c.addr = strings.TrimSuffix(addr, "/")
	if err := checkHostPort(c.addr); err != nil {
		return nil, err
	}
	return c, nil
}

func checkHostPort(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" || strings.ContainsAny(addr, "/?#@ ") {
		return fmt.Errorf("the Host's API address %q is not HOST:PORT, such as 192.168.88.53:8000", addr)
	}
	return nil
}

// connect gives the line for the credential of the moment.
func (c *Client) connect() (*line, error) {
	var credential *trust.Credential
	if c.keeper != nil && !c.plain && !c.socket {
		var err error
		if credential, err = c.keeper.Current(); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line != nil && c.line.credential == credential {
		return c.line, nil
	}
	if c.line != nil {
		c.line.close() // what is under way on it ends by itself
	}
	c.line = &line{base: "http://" + c.addr, credential: credential}
	dial := c.dialer.DialContext
	var tls *tls.Config
	switch {
	case c.socket:
		c.line.base = "http://" + trust.ServerName
		c.line.show = "unix:" + c.addr
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.dialer.DialContext(ctx, "unix", c.addr)
		}
	case credential != nil:
		c.line.base = "https://" + c.addr
		tls = credential.ClientTLS()
	}
	if c.line.show == "" {
		c.line.show = c.line.base
	}
	c.line.http, c.line.patient = newHTTP(CallTimeout, dial, tls), newHTTP(0, dial, tls)
	return c.line, nil
}

func (l *line) close() {
	l.http.CloseIdleConnections()
	l.patient.CloseIdleConnections()
}

// newHTTP makes a client whose calls take at most that long; 0: as long as their
// context says.
func newHTTP(timeout time.Duration, dial func(ctx context.Context, network, addr string) (net.Conn, error), tls *tls.Config) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext:           dial,
			TLSClientConfig:       tls,
			TLSHandshakeTimeout:   CallTimeout,
			MaxIdleConnsPerHost:   2,
			IdleConnTimeout:       30 * time.Second,
			ResponseHeaderTimeout: timeout,
		},
		// A redirect would carry a registration to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close drops idle connections. The client may be used again.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line != nil {
		c.line.close()
	}
}

// URL is where calls go, for a person to read.
func (c *Client) URL() string {
	l, err := c.connect()
	if err != nil {
		return c.addr
	}
	return l.show
}

// Register joins the cluster.
func (c *Client) Register(ctx context.Context, q RegisterRequest) (RegisterAnswer, error) {
	var a RegisterAnswer
	err := c.call(ctx, "register with the Host", http.MethodPost, PathRegister, q, &a)
	return a, err
}

// Heartbeat says that the runner is alive. IsNotFound tells the error after which
// the runner must register again.
func (c *Client) Heartbeat(ctx context.Context, name string, h Heartbeat) (HeartbeatAnswer, error) {
	var a HeartbeatAnswer
	err := c.call(ctx, "send a heartbeat to the Host", http.MethodPut, PathHeartbeat+url.PathEscape(name), h, &a)
	if err == nil && a.RenewCredential {
		c.renew(ctx)
	}
	return a, err
}

const opStatus = "read the overlay's status"

// Status fetches the overlay's state.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, opStatus, http.MethodGet, PathStatus, nil, &s)
	return s, err
}

// Release frees one runner's allocation.
func (c *Client) Release(ctx context.Context, name string) (ReleaseAnswer, error) {
	var a ReleaseAnswer
	err := c.call(ctx, fmt.Sprintf("release runner %q", name), http.MethodPost, PathRelease+url.PathEscape(name), nil, &a)
	return a, err
}

// Cleanup frees the allocations of all inactive runners.
func (c *Client) Cleanup(ctx context.Context) (CleanupAnswer, error) {
	var a CleanupAnswer
	err := c.call(ctx, "release inactive runners", http.MethodPost, PathCleanup, nil, &a)
	return a, err
}

// Health asks whether the Host's API answers.
func (c *Client) Health(ctx context.Context) error {
	var h Health
	return c.call(ctx, "ask the Host whether it is well", http.MethodGet, PathHealth, nil, &h)
}

// RawStatus fetches the overlay's state as the Host sent it, with what this version
// does not know.
func (c *Client) RawStatus(ctx context.Context) ([]byte, error) {
	var raw json.RawMessage
	err := c.call(ctx, opStatus, http.MethodGet, PathStatus, nil, &raw)
	return raw, err
}

// call makes one of the calls that are answered at once.
func (c *Client) call(ctx context.Context, op, method, path string, body, answer any) error {
	l, err := c.connect()
	if err != nil {
		return damaged(op, c.addr, err)
	}
	return l.call(ctx, l.http, op, method, path, body, answer)
}

// wait makes a call that takes as long as its context says.
func (c *Client) wait(ctx context.Context, op, method, path string, body, answer any) error {
	l, err := c.connect()
	if err != nil {
		return damaged(op, c.addr, err)
	}
	return l.call(ctx, l.patient, op, method, path, body, answer)
}

func damaged(op, addr string, err error) error {
	fail := &CallError{Op: op, URL: addr, Err: err}
	if _, ok := errors.AsType[*trust.DamagedError](err); ok {
		fail.Hint = hintJoin
	}
	return fail
}

func (l *line) call(ctx context.Context, client *http.Client, op, method, path string, body, answer any) error {
	fail := &CallError{Op: op, URL: l.show}
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			fail.Err = err
			return fail
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, l.base+path, payload)
	if err != nil {
		fail.Err = err
		return fail
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := client.Do(req)
	if err != nil {
		fail.Hint, fail.Err = explain(err)
		return fail
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, MaxAnswer))
	if err != nil {
		fail.Err = fmt.Errorf("the answer broke off: %w", err)
		return fail
	}
	if res.StatusCode/100 != 2 {
		fail.StatusCode = res.StatusCode
		var e ErrorBody
		switch {
		case json.Unmarshal(data, &e) == nil && e.Error != "":
			fail.Message, fail.Hint = Printable(e.Error), Printable(e.Hint)
		case res.StatusCode == http.StatusBadRequest && bytes.Contains(data, []byte("HTTP request to an HTTPS server")): // net/http's server
			fail.StatusCode = http.StatusUnauthorized
			fail.Message, fail.Hint = "this Host speaks TLS only, and this machine has no credential for it", hintJoin
		default:
			fail.Hint = "that is not an answer of kohaku's API; is this the right address and port?"
		}
		return fail
	}
	if err := json.Unmarshal(data, answer); err != nil {
		fail.Err = fmt.Errorf("the answer is not what this version expects: %w", err)
		fail.Hint = "is this the address of kohaku's API, and the same version at both ends?"
		return fail
	}
	return nil
}

// hintJoin is for a machine without a credential that the Host takes.
const hintJoin = "on the Host, `kohaku token new` prints the command to run here; on the Host itself, use kohaku as root"

// explain takes the wrapping off a transport's error and names a remedy for the
// usual ones.
func explain(err error) (hint string, cause error) {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	// The ports of this end differ each time; without them equal causes read
	// equal, and are logged once.
	var op *net.OpError
	if errors.As(err, &op) {
		err = fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	var dns *net.DNSError
	var pin *trust.PinError
	switch {
	case errors.As(err, &pin):
		return "that is another Host than the one whose token or credential is used, or its CA was made anew: correct the address, " +
			"or join it with a token of its own (kohaku token new, there)", pin
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the Host there speaks plain HTTP (join = \"open\"), and this machine has a credential, which it will not go without: " +
			"if that is meant, remove " + trust.CredentialFile + " from state_dir, " +
			"or ask that Host alone with --host http://ADDRESS:PORT", errors.New("no TLS there")
	case errors.Is(err, fs.ErrPermission):
		return "only root administers the Host: sudo", err
	case errors.Is(err, fs.ErrNotExist):
		return "no Host runs on this machine: start it (systemctl start kohakuriver-host), or name another with --host ADDRESS:PORT", err
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: start `kohaku host` on that machine, or correct the address", err
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "this machine has no route there: check the address and the underlay network", err
	case errors.As(err, &dns):
		return "the name could not be resolved: write the Host's IP address instead", err
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer in time: is the machine up, and does its firewall let the API port through?", err
	}
	return "", err
}
