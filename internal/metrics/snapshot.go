// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"kohaku/engine"
	"kohaku/internal/dataplane"
)

// Snapshot is a daemon's state at one moment.
type Snapshot struct {
	Engine  *engine.Stats // nil: there is no data plane
	Tunnels []Tunnel
	// SocketDrops is what the kernel dropped for want of room in the sockets; nil
	// where it does not tell.
	SocketDrops *uint64
	Problems    int
	// FirewallRepairs is nil where nobody counts them.
	FirewallRepairs *uint64

	Host   *Host   // nil on a Runner
	Runner *Runner // nil on the Host
}

// Tunnel is one tunnel.
type Tunnel struct {
	dataplane.Stats
	Runner string // whose it is
}

// Host is what only the Host knows.
type Host struct {
	Members      []Member
	AvailableIDs int
	MaxRunners   int
}

// Member is one allocation on the Host.
type Member struct {
	Name   string
	Active bool
	// Age is the time since the last heartbeat; negative: none since the Host
	// started.
	Age time.Duration
}

// Runner is what only a Runner knows.
type Runner struct {
	Joined bool // the Host has answered the last registration or heartbeat
	// Age is the time since the Host's last answer; negative: none yet.
	Age time.Duration
}

// OfFirewall fills in what a firewall.Firewall tells.
func (s *Snapshot) OfFirewall(f any) {
	if c, ok := f.(interface{ Repairs() uint64 }); ok {
		n := c.Repairs()
		s.FirewallRepairs = &n
	}
}

// OfPlane fills in what a data plane tells. name gives the Runner of a tunnel. A nil
// plane is none.
func (s *Snapshot) OfPlane(p dataplane.Plane, name func(dataplane.Stats) string) {
	if p == nil {
		return
	}
	stats := p.Stats()
	s.Engine = &stats
	for _, t := range p.Tunnels() {
		s.Tunnels = append(s.Tunnels, Tunnel{t, name(t)})
	}
	if d, ok := p.(interface{ SocketDrops() (uint64, bool) }); ok {
		if n, ok := d.SocketDrops(); ok {
			s.SocketDrops = &n
		}
	}
}
