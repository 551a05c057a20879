// SPDX-License-Identifier: Apache-2.0

// Package dataplane is the narrow view that the daemons have of the engine and of
// tunnel devices. Behind it stand the real ones (System) or, in tests, those of
// package dataplanetest.
package dataplane

import (
	"net"
	"net/netip"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/api"
	"kohaku/tun"
)

// The engine's own types, under the names that the daemons use.
type (
	Tunnel  = engine.Tunnel
	Peer    = engine.Peer
	Failure = engine.Failure
)

// Stats are one tunnel's.
type Stats struct {
	VNI      encap.VNI
	Device   string
	Counters api.Counters
	Err      string // why the tunnel carries nothing; empty when it does
}

// Plane moves frames between devices and peers. Its methods are safe for
// concurrent use.
type Plane interface {
	// Add starts a tunnel and, when it succeeds, owns its device.
	Add(Tunnel) error
	// Update changes the peer of a tunnel while it runs.
	Update(encap.VNI, Peer) error
	// Remove ends a tunnel and closes its device. One that does not exist is no
	// error.
	Remove(encap.VNI) error
	// Tunnels lists all tunnels by ascending VNI.
	Tunnels() []Stats
	// Drops counts what belonged to no tunnel, by reason.
	Drops() map[string]uint64
	// Stats is what the engine counts as a whole.
	Stats() engine.Stats
	// Failures tells of dead devices, once each; Tunnels shows them too. It is
	// never closed.
	Failures() <-chan Failure
	// Close ends all tunnels and closes their devices. Call it once.
	Close() error
}

// Device says what device is wanted.
type Device struct {
	Kind string // conf.DeviceTAP or conf.DeviceTUN; empty means the former
	Name string
	MTU  int              // bytes, inner
	MAC  net.HardwareAddr // of a new device; one that is in use keeps its own
	// Addrs are the addresses that the machine has on the device. A TUN answers
	// for them, and asks for others in their name.
	Addrs []netip.Addr
	// Trial is a device that only shows whether devices can be made: it does not
	// outlive the process.
	Trial bool
}

// kind is Kind, spelled out.
func (d Device) kind() string {
	if d.Kind == "" {
		return conf.DeviceTAP
	}
	return d.Kind
}

// Machine opens what a Plane works with.
type Machine interface {
	// OpenDevice makes a device that outlives the process, or takes over one that
	// another process left behind. The caller closes it or hands it to a Plane.
	OpenDevice(Device) (tun.Device, error)
	// NewPlane starts a data plane on a UDP port.
	NewPlane(port uint16) (Plane, error)
}
