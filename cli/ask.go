// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/trust"
)

// hostFlag is the --host flag of the commands that ask the Host.
func hostFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "host", "", "ask the Host's API at `ADDRESS:PORT`, or its admin socket at unix:PATH (else the Host on this machine, or the one that runner.toml names)")
}

// target is where the Host's API is and how that is known.
type target struct {
	addr   string // as api.NewClient takes it: ADDRESS:PORT, or unix:PATH
	from   string // "--host", a file, or what stands in for it
	keeper *trust.Keeper
}

// findHost decides whom to ask: the flag, else the Host that runs on this machine,
// by its admin socket, else the Host that this machine's runner.toml names.
func findHost(flag string) (target, error) {
	if flag != "" {
		// With the credential of this machine, if it is a Runner's.
		dir := conf.DefaultRunner().Runner.StateDir
		if r, err := conf.LoadRunner(conf.RunnerPath("")); err == nil {
			dir = r.Runner.StateDir
		}
		return target{flag, "--host", trust.NewKeeper(dir, nil)}, nil
	}
	_, err := os.Stat(conf.RunnerPath(""))
	isRunner := !errors.Is(err, fs.ErrNotExist)
	h, path, err := loadHost("")
	if err != nil && !isRunner {
		return target{}, err
	}
	if err == nil {
		socket := h.Host.SocketPath()
		if _, err := os.Stat(socket); err == nil {
			return target{"unix:" + socket, "the socket of the Host on this machine", nil}, nil
		}
	}
	if isRunner {
		r, path, err := loadRunner("")
		if err != nil {
			return target{}, err
		}
		return target{r.Runner.Host, path, trust.NewKeeper(r.Runner.StateDir, nil)}, nil
	}
	if path == "" {
		path = "the default, as there is neither runner.toml nor host.toml"
	}
	if h.Host.Join == conf.JoinOpen {
		return target{dialable(h.Host.Bind).String(), path, nil}, nil
	}
	return target{"unix:" + h.Host.SocketPath(), path, nil}, nil
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
	client, err := api.NewClient(t.addr, api.WithCredential(t.keeper))
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
	client, err := t.client(c)
	if err != nil {
		return nil, s, err
	}
	defer client.Close()
	raw, err = client.RawStatus(c.Context())
	if err == nil {
		if cause := json.Unmarshal(raw, &s); cause != nil {
			err = &failure{tried: "read the overlay's status", cause: fmt.Errorf("an answer that is not an overlay status: %w", cause),
				next: "is that the address of a Host, and is kohaku there of a similar version?"}
		}
	} else {
		err = callFailure(c, err)
	}
	var f *failure
	if errors.As(err, &f) {
		f.tried = "read the overlay's status from " + t.url(client)
		if t.from != "--host" {
			f.tried += "\n  (address from " + t.from + ")"
		}
	}
	return raw, s, err
}

// url is where the status comes from, for a person.
func (t target) url(client *api.Client) string {
	at := client.URL()
	if strings.HasPrefix(at, "unix:") {
		return at
	}
	return at + api.PathStatus
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
		next = ""
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
		answer, next := e.Message, e.Hint
		if answer == "" {
			answer, next = http.StatusText(e.StatusCode), "is that the address of a Host? It answers, but not as one"
		}
		return &failure{tried: e.Op + " at " + e.URL, cause: fmt.Errorf("HTTP %d, %s", e.StatusCode, answer), next: next}
	}
	next, cause := explainDial(e.Err)
	switch {
	case next != "":
	case e.Hint != "":
		next, cause = e.Hint, e.Err
	default:
		next = "check the address, and the network between; another one: --host ADDRESS:PORT"
	}
	return &failure{tried: e.Op + " at " + e.URL, cause: cause, next: next}
}

// loopbackOnly reports whether an address can only be reached on this machine.
func loopbackOnly(hostport string) bool {
	a, err := netip.ParseAddrPort(hostport)
	return err == nil && a.Addr().IsLoopback()
}
