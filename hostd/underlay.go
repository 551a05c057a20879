// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"

	"kohaku/encap"
	"kohaku/internal/link"
)

// checkReachable refuses a reachable_address that no runner could use.
func (h *Host) checkReachable() error {
	a := h.cfg.Host.ReachableAddress
	if !a.IsValid() {
		return nil
	}
	const remedy = "write the address that runners reach this machine by, or leave reachable_address empty to have it found"
	switch {
	case a.IsLoopback() && !h.cfg.Host.Bind.Addr().IsLoopback():
		return fmt.Errorf("reachable_address = %s is this machine's loopback, which runners on other machines cannot reach (%s)", a, remedy)
	case h.plan.Overlay().Contains(a):
		return fmt.Errorf("reachable_address = %s lies inside the overlay %s: tunnels would run through themselves (%s)", a, h.plan.Overlay(), remedy)
	}
	devices, err := h.links.Devices()
	if err != nil {
		return err
	}
	for _, d := range devices {
		if slices.ContainsFunc(d.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
			return nil
		}
	}
	if a.IsLoopback() { // all of 127.0.0.0/8 is this machine's, whether listed or not
		return nil
	}
	return fmt.Errorf("reachable_address = %s is not an address of this machine (%s)", a, remedy)
}

// checkRemote refuses an underlay address at which a tunnel could not end. from is
// where the call came from.
func (h *Host) checkRemote(remote, from netip.Addr) error {
	refuse := func(why, hint string) error {
		return &refusal{http.StatusBadRequest, fmt.Sprintf("the runner says its address is %s, %s", remote, why), hint}
	}
	const hint = "set `address` in the [runner] section of runner.toml to the address that the Host reaches it by"
	switch {
	case remote.IsLoopback() && !from.Unmap().IsLoopback():
		return refuse("which is the runner's loopback", hint)
	case h.plan.Overlay().Contains(remote):
		return refuse("which lies inside the overlay "+h.plan.Overlay().String()+": the tunnel would run through itself", hint)
	}
	return nil
}

// underlay is how the Host reaches a runner.
type underlay struct {
	local netip.Addr
	mtu   int // of the overlay, bytes
	tight error
}

// toward finds the Host's end of a tunnel and what its MTU can be. runnerMTU is
// that of the runner's underlay device, 0 when not known.
func (h *Host) toward(remote netip.Addr, runnerMTU int) (underlay, error) {
	path, err := h.links.PathTo(remote)
	if err != nil {
		return underlay{}, err
	}
	if path.Own && !remote.IsLoopback() {
		return underlay{}, fmt.Errorf("%s is the Host's own address: a Runner needs a machine (or a network namespace) of its own", remote)
	}
	if link.OurName(path.Device) {
		return underlay{}, fmt.Errorf("the route to %s leads into the overlay (by %s): the tunnel would run through itself; "+
			"give this machine a route to it through the underlay", remote, path.Device)
	}
	u := underlay{local: path.Local}
	if a := h.cfg.Host.ReachableAddress; a.IsValid() {
		if a.Is4() != remote.Is4() {
			return underlay{}, fmt.Errorf("the runner's address %s and the Host's reachable_address %s are not of one IP version", remote, a)
		}
		u.local = a
	}
	limit := path.MTU
	if runnerMTU > 0 {
		limit = min(limit, runnerMTU)
	}
	fits, err := encap.UnderlayMTU(limit).Inner(remote.Is6())
	u.mtu = int(fits)
	if want := h.cfg.Overlay.MTU; want != 0 {
		u.mtu = want
		if err != nil || want > int(fits) {
			u.tight = fmt.Errorf("the overlay's mtu = %d does not fit the underlay toward %s, whose MTU is %d: outer packets "+
				"will be fragmented or lost (set mtu = %d or 0 in host.toml, or raise the MTU of %s)",
				want, remote, limit, max(int(fits), 0), path.Device)
		}
		return u, nil
	}
	return u, err
}

// overlayMTU is the one for the status while no runner says better.
func (h *Host) overlayMTU() int {
	if h.cfg.Overlay.MTU != 0 {
		return h.cfg.Overlay.MTU
	}
	if a := h.cfg.Host.ReachableAddress; a.IsValid() {
		devices, err := h.links.Devices()
		if err != nil {
			return 0
		}
		for _, d := range devices {
			if slices.ContainsFunc(d.Addrs, func(p netip.Prefix) bool { return p.Addr() == a }) {
				return innerOrZero(d.MTU, a.Is6())
			}
		}
	}
	if mtu, ok := h.links.DefaultMTU(); ok {
		return innerOrZero(mtu, false)
	}
	return 0
}

func innerOrZero(mtu int, v6 bool) int {
	in, err := encap.UnderlayMTU(mtu).Inner(v6)
	if err != nil {
		return 0
	}
	return int(in)
}

var _ Links = link.Kernel{}
