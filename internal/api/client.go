// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

// CallTimeout bounds one call, from dialling to the last byte of the answer.
const CallTimeout = 5 * time.Second

// Client calls the Host's API. It is safe for concurrent use.
type Client struct {
	base    string
	http    *http.Client
	patient *http.Client // for calls whose answer takes its time
}

// NewClient makes a client for the API at addr, "host:port" or "http://host:port".
// Nothing is dialled yet. Proxies from the environment are not used: the Host is
// on the underlay.
func NewClient(addr string) (*Client, error) {
	addr = strings.TrimSuffix(strings.TrimPrefix(addr, "http://"), "/")
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" || strings.ContainsAny(addr, "/?#@ ") {
		return nil, fmt.Errorf("the Host's API address %q is not HOST:PORT, such as 192.168.88.53:8000", addr)
	}
	return &Client{base: "http://" + addr, http: newHTTP(CallTimeout), patient: newHTTP(0)}, nil
}

// newHTTP makes a client whose calls take at most that long; 0: as long as their
// context says.
func newHTTP(timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: CallTimeout}).DialContext,
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
	c.http.CloseIdleConnections()
	c.patient.CloseIdleConnections()
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
	return a, err
}

// Status fetches the overlay's state.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.call(ctx, "ask the Host for the overlay's status", http.MethodGet, PathStatus, nil, &s)
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

func (c *Client) call(ctx context.Context, op, method, path string, body, answer any) error {
	fail := &CallError{Op: op, URL: c.base}
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			fail.Err = err
			return fail
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, payload)
	if err != nil {
		fail.Err = err
		return fail
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
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
		if json.Unmarshal(data, &e) == nil && e.Error != "" {
			fail.Message, fail.Hint = Printable(e.Error), Printable(e.Hint)
		} else {
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
	switch {
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
