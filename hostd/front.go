// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/link"
	"kohaku/internal/trust"
)

// Join calls of one address: so many at once, and one more in every period.
const (
	joinBurst = 10
	joinEvery = 3 * time.Second
)

// front is where calls come in: the API's port and the admin socket.
type front struct {
	api   net.Listener
	admin net.Listener
}

// openFront makes a guarded front of the API's listener: with TLS, when join =
// "token", for which it opens what this Host knows of tokens and credentials.
func (h *Host) openFront(ctx context.Context, api net.Listener) (*front, error) {
	var config *tls.Config
	if open(h.cfg) {
		h.log.Warn(`join = "open" in host.toml: whoever reaches the API's port is believed, and nothing is encrypted; for a lab only`, "api", api.Addr())
	} else {
		authority, err := trust.Open(trust.Options{Dir: h.cfg.Host.StateDir, Log: h.log, Clock: h.opts.TrustClock})
		if err != nil {
			return nil, err
		}
		if config, err = authority.ServerTLS(h.ownNames()); err != nil {
			return nil, err
		}
		h.trust = authority
	}
	admin, err := listenAdmin(ctx, h.cfg.Host.SocketPath(), h.log)
	if err != nil {
		return nil, err
	}
	return &front{api: newGate(api, config, h.plan.MaxRunners(), h.log), admin: admin}, nil
}

func (f *front) close() {
	f.api.Close()
	f.admin.Close()
}

// serve serves one of the front's listeners until the server is shut down.
func serve(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// ownNames are this machine's names and addresses, for the API's certificate.
func (h *Host) ownNames() (names []string, addrs []netip.Addr) {
	names = []string{"localhost"}
	if name, err := os.Hostname(); err == nil {
		if canonical, err := api.CanonicalHostname(name); err == nil && canonical != "localhost" {
			names = append(names, canonical)
		}
	}
	addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	devices, err := h.links.Devices()
	if err != nil {
		return names, addrs // only other tools miss them
	}
	for _, d := range devices {
		for _, p := range d.Addrs {
			if a := p.Addr().Unmap().WithZone(""); !slices.Contains(addrs, a) && !link.OurName(d.Name) {
				addrs = append(addrs, a)
			}
		}
	}
	return names, addrs
}

// invite makes the first token, on the Host's first start, and announces how to
// join with it.
func (h *Host) invite() {
	if h.trust == nil || !h.trust.IsNew() {
		return
	}
	token, info, err := h.trust.NewToken(trust.DefaultTTL, 0)
	if err != nil {
		h.problems.Set("first token", fmt.Errorf("no join token could be made: %w (kohaku token new makes one)", err))
		return
	}
	h.opts.Announce(h.joinCommand(token), info.Expires)
}

// joinCommand is what joins a Runner.
func (h *Host) joinCommand(t trust.Token) string {
	return "kohaku runner --join " + t.Reveal() + " --host " + h.advertised()
}

// advertised is the API's address as Runners reach it, as far as this machine can
// tell.
func (h *Host) advertised() string {
	return netip.AddrPortFrom(h.advertisedAddr(), h.apiPort).String()
}

func (h *Host) advertisedAddr() netip.Addr {
	if a := h.cfg.Host.ReachableAddress; a.IsValid() {
		return a
	}
	bind := h.cfg.Host.Bind.Addr().Unmap()
	if !bind.IsUnspecified() {
		return bind
	}
	// The source address of the way to everywhere: any address outside will do, and
	// those that documentation uses (RFC 5737, RFC 3849) belong to nobody.
	for _, far := range []string{"198.51.100.1", "2001:db8::1"} {
		if path, err := h.links.PathTo(netip.MustParseAddr(far)); err == nil && path.Local.IsValid() && !path.Local.IsLoopback() && !link.OurName(path.Device) {
			return path.Local.Unmap()
		}
	}
	devices, err := h.links.Devices()
	if err != nil {
		return bind
	}
	var found netip.Addr
	for _, d := range devices {
		for _, p := range d.Addrs {
			a := p.Addr().Unmap()
			usable := d.Up && !link.OurName(d.Name) && a.IsGlobalUnicast() && !h.plan.Overlay().Contains(a)
			if usable && (!found.IsValid() || found.Is6() && a.Is4()) {
				found = a
			}
		}
	}
	if !found.IsValid() {
		return bind
	}
	return found
}
