// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"kohaku/conf"
	"kohaku/internal/api"
)

// hostFlag is the --host flag of the commands that ask the Host.
func hostFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "host", "", "ask the Host's API at `ADDRESS:PORT` (else from runner.toml or host.toml)")
}

// target is where the Host's API is and how that is known.
type target struct {
	addr string // ADDRESS:PORT
	from string // "--host", a file, or what stands in for it
}

// findHost decides whom to ask: the flag, else the Host that this machine's
// runner.toml names, else the Host that runs here by its host.toml, else the
// default port on this machine.
func findHost(flag string) (target, error) {
	if flag != "" {
		return target{strings.TrimPrefix(flag, "http://"), "--host"}, nil
	}
	if _, err := os.Stat(conf.RunnerPath("")); !errors.Is(err, fs.ErrNotExist) {
		r, path, err := loadRunner("")
		if err != nil {
			return target{}, err
		}
		return target{r.Runner.Host, path}, nil
	}
	h, path, err := loadHost("")
	if err != nil {
		return target{}, err
	}
	if path == "" {
		path = "the default, as there is neither runner.toml nor host.toml"
	}
	return target{dialable(h.Host.Bind).String(), path}, nil
}

// dialable turns an address to listen on into one to connect to.
func dialable(bind netip.AddrPort) netip.AddrPort {
	switch a := bind.Addr(); {
	case a == netip.IPv6Unspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), bind.Port())
	case a.IsUnspecified():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), bind.Port())
	}
	return bind
}

// findClient makes an API client for the Host that findHost finds.
func findClient(c *cobra.Command, host string) (*api.Client, error) {
	t, err := findHost(host)
	if err != nil {
		return nil, err
	}
	return t.client(c)
}

// client makes an API client for t.
func (t target) client(c *cobra.Command) (*api.Client, error) {
	client, err := api.NewClient(t.addr)
	if err != nil {
		if t.from == "--host" {
			return nil, &usageError{c.CommandPath(), err}
		}
		return nil, &failure{tried: "use the Host's address from " + t.from, cause: err, code: exitConfig}
	}
	return client, nil
}

// status asks for the overlay's status and returns the answer's bytes too, for
// those who want it as it came, with what this version does not know.
func (t target) status(c *cobra.Command) (raw []byte, s api.Status, err error) {
	if _, err := t.client(c); err != nil {
		return nil, s, err
	}
	ctx, cancel := context.WithTimeout(c.Context(), api.CallTimeout)
	defer cancel()
	url := "http://" + t.addr + api.PathStatus
	fail := func(cause error, next string) ([]byte, api.Status, error) {
		if c.Context().Err() != nil {
			return nil, api.Status{}, errInterrupted
		}
		f := &failure{tried: "read the overlay's status from " + url, cause: cause, next: next}
		if t.from != "--host" {
			f.tried += "\n  (address from " + t.from + ")"
		}
		return nil, api.Status{}, f
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fail(err, "")
	}
	// The Host is on the underlay: a proxy of the environment is not asked.
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		next, cause := explainDial(err)
		return fail(cause, next)
	}
	defer res.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(res.Body, api.MaxAnswer))
	if err != nil {
		return fail(fmt.Errorf("the answer broke off: %w", err), "try again")
	}
	if res.StatusCode != http.StatusOK {
		var e api.ErrorBody
		if json.Unmarshal(raw, &e) == nil && e.Error != "" {
			return fail(fmt.Errorf("HTTP %d, %s", res.StatusCode, api.Printable(e.Error)), api.Printable(e.Hint))
		}
		return fail(fmt.Errorf("HTTP %s", res.Status), "is that the address of a Host? It answers, but not as one")
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return fail(fmt.Errorf("an answer that is not an overlay status: %w", err), "is that the address of a Host, and is kohaku there of a similar version?")
	}
	return raw, s, nil
}

// explainDial takes the wrapping off a transport's error and says what to do.
func explainDial(err error) (next string, cause error) {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		cause = inner
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		next = "start the Host there (systemctl status kohakuriver-host), or name another with --host ADDRESS:PORT"
	case errors.Is(err, context.DeadlineExceeded):
		cause = fmt.Errorf("nothing within %s", api.CallTimeout)
		next = "is the machine up, and does its firewall let the API's port in? Another one: --host ADDRESS:PORT"
	default:
		next = "check the address, and the network between; another one: --host ADDRESS:PORT"
	}
	return next, cause
}

// callFailure turns an API client's error into three lines.
func callFailure(c *cobra.Command, err error) error {
	var e *api.CallError
	switch {
	case err == nil:
		return nil
	case c.Context().Err() != nil:
		return errInterrupted
	case !errors.As(err, &e):
		return err
	case e.StatusCode != 0:
		answer := e.Message
		if answer == "" {
			answer = http.StatusText(e.StatusCode)
		}
		return &failure{tried: e.Op + " at " + e.URL, cause: fmt.Errorf("HTTP %d, %s", e.StatusCode, answer), next: e.Hint}
	}
	next, cause := explainDial(e.Err)
	return &failure{tried: e.Op + " at " + e.URL, cause: cause, next: next}
}

// loopbackOnly reports whether an address can only be reached on this machine.
func loopbackOnly(hostport string) bool {
	a, err := netip.ParseAddrPort(hostport)
	return err == nil && a.Addr().IsLoopback()
}
