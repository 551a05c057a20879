// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"time"
)

// Paths of the calls. The ones with a trailing slash are followed by a hostname.
const (
	PathRegister  = "/api/register"
	PathHeartbeat = "/api/heartbeat/"
	PathStatus    = "/api/overlay/status"
	PathRelease   = "/api/overlay/release/"
	PathCleanup   = "/api/overlay/cleanup"
	PathHealth    = "/healthz"
	PathMetrics   = "/metrics"
)

// Settings are the overlay settings that both ends must agree on, as they stand
// in a Runner's own file. Nil means that the file leaves the choice to the Host.
type Settings struct {
	Subnet    *string `json:"subnet,omitempty"` // BASE/PREFIX/NODE_BITS/SUBNET_BITS
	VXLANID   *uint32 `json:"vxlan_id,omitempty"`
	VXLANPort *uint16 `json:"vxlan_port,omitempty"`
	MTU       *int    `json:"mtu,omitempty"` // bytes, inner; 0 counts as unset
}

// RegisterRequest is the body of POST /api/register.
type RegisterRequest struct {
	Hostname  string     `json:"hostname"`
	MachineID string     `json:"machine_id"` // see package machine
	Address   netip.Addr `json:"address"`    // the Runner's underlay address
	// UnderlayMTU is the MTU in bytes of the Runner's device toward the Host; 0
	// when it is not known.
	UnderlayMTU int `json:"underlay_mtu,omitempty"`
	// PreviousID is the runner id that the Runner's own devices still carry, 0
	// for none. It is granted when nobody else holds it.
	PreviousID int      `json:"previous_id,omitempty"`
	Settings   Settings `json:"settings"`
	Version    string   `json:"version,omitempty"`
}

// RegisterAnswer is what a Runner needs to build its end.
type RegisterAnswer struct {
	RunnerName string `json:"runner_name"` // the canonical form, for heartbeats
	RunnerID   int    `json:"runner_id"`
	// SubnetConfig is the cluster's plan, BASE/PREFIX/NODE_BITS/SUBNET_BITS.
	SubnetConfig string       `json:"subnet_config"`
	Subnet       netip.Prefix `json:"subnet"`         // this Runner's
	Gateway      netip.Addr   `json:"gateway"`        // this Runner's bridge on it
	HostOnSubnet netip.Addr   `json:"host_on_subnet"` // next hop toward the overlay
	HostIP       netip.Addr   `json:"host_ip"`        // the Host's overlay address
	// HostPhysicalIP is the underlay address of the Host's end of the tunnel.
	HostPhysicalIP netip.Addr `json:"host_physical_ip"`
	VNI            uint32     `json:"vni"`
	VXLANPort      uint16     `json:"vxlan_port"`
	MTU            int        `json:"mtu"` // bytes, of the overlay
	// HeartbeatInterval is in seconds; after TimeoutFactor intervals without a
	// heartbeat the Runner counts as inactive.
	HeartbeatInterval float64 `json:"heartbeat_interval"`
	TimeoutFactor     int     `json:"timeout_factor"`
}

// Interval is HeartbeatInterval as a duration.
func (a RegisterAnswer) Interval() time.Duration {
	return time.Duration(a.HeartbeatInterval * float64(time.Second))
}

// Counters are one end's view of one tunnel since its daemon started. Bytes are
// those of inner Ethernet frames, both ways.
type Counters struct {
	RxFrames uint64            `json:"rx_frames"`
	RxBytes  uint64            `json:"rx_bytes"`
	TxFrames uint64            `json:"tx_frames"`
	TxBytes  uint64            `json:"tx_bytes"`
	Drops    map[string]uint64 `json:"drops,omitempty"` // by reason
}

// Heartbeat is the body of PUT /api/heartbeat/{hostname}.
type Heartbeat struct {
	MachineID   string     `json:"machine_id"`
	RunnerID    int        `json:"runner_id"`
	Address     netip.Addr `json:"address"`
	UnderlayMTU int        `json:"underlay_mtu,omitempty"`
	Counters    Counters   `json:"counters"`
	Problems    []string   `json:"problems,omitempty"`
	Firewall    *Firewall  `json:"firewall,omitempty"`
	// UsedAddresses are the overlay addresses that containers on the Runner have,
	// sorted, at most MaxUsedAddresses. They are IPv4 and inside the Runner's own
	// subnet, which CheckUsed checks where the subnet is known. Nil, null or left
	// out: the Runner does not know yet; that is not the same as none.
	UsedAddresses []netip.Addr `json:"used_addresses"`
}

// HeartbeatAnswer repeats what may change while a Runner is joined. A Runner that
// built something else registers again.
type HeartbeatAnswer struct {
	RunnerID          int        `json:"runner_id"`
	HostPhysicalIP    netip.Addr `json:"host_physical_ip"`
	MTU               int        `json:"mtu"`
	HeartbeatInterval float64    `json:"heartbeat_interval"`
	// RenewCredential asks for POST /api/credential/renew.
	RenewCredential bool `json:"renew_credential,omitempty"`
}

// Allocation is one Runner as the Host knows it.
type Allocation struct {
	RunnerName  string       `json:"runner_name"`
	RunnerID    int          `json:"runner_id"`
	Subnet      netip.Prefix `json:"subnet"`
	Gateway     netip.Addr   `json:"gateway"`
	PhysicalIP  netip.Addr   `json:"physical_ip"` // empty while it is not known
	IsActive    bool         `json:"is_active"`
	LastUsed    time.Time    `json:"last_used"` // the zero time: not since the Host started
	VXLANDevice string       `json:"vxlan_device"`

	HostOnSubnet netip.Addr `json:"host_on_subnet"`
	// HostPhysicalIP is the Host's end of the tunnel, empty while it is not known.
	HostPhysicalIP netip.Addr `json:"host_physical_ip"`
	VNI            uint32     `json:"vni"`
	MTU            int        `json:"mtu"`
	MachineID      string     `json:"machine_id"`
	// Counters are the Host's own for this tunnel; nil while it has no tunnel.
	Counters *Counters `json:"counters,omitempty"`
	// RunnerCounters are the Runner's, as of its last heartbeat.
	RunnerCounters *Counters `json:"runner_counters,omitempty"`
	RunnerProblems []string  `json:"runner_problems,omitempty"`
	// RunnerFirewall is the Runner's firewall, as of its last heartbeat.
	RunnerFirewall *Firewall `json:"runner_firewall,omitempty"`
}

// Stats sums up the Host's table.
type Stats struct {
	TotalAllocations    int    `json:"total_allocations"`
	ActiveAllocations   int    `json:"active_allocations"`
	InactiveAllocations int    `json:"inactive_allocations"`
	AvailableIDs        int    `json:"available_ids"`
	MaxRunners          int    `json:"max_runners"`
	BaseVXLANID         uint32 `json:"base_vxlan_id"`
	VXLANPort           uint16 `json:"vxlan_port"`
	// MTU is the overlay's: as configured, or else the smallest that was handed
	// out, or else what the Host's own underlay allows. 0: not known yet.
	MTU int `json:"mtu"`
	// Drops are datagrams that belong to no tunnel, by reason.
	Drops map[string]uint64 `json:"drops,omitempty"`
}

// Status is the answer of GET /api/overlay/status. With Enabled false the rest is
// empty.
type Status struct {
	Enabled      bool         `json:"enabled"`
	SubnetConfig string       `json:"subnet_config"`
	HostIP       netip.Addr   `json:"host_ip"`
	Allocations  []Allocation `json:"allocations"`
	Stats        Stats        `json:"stats"`
	// Problems are sentences for a person: what is wrong now and what to do.
	Problems []string `json:"problems"`
	// Firewall is the Host's own.
	Firewall *Firewall `json:"firewall,omitempty"`
}

// ReleaseAnswer is the answer of POST /api/overlay/release/{runner}.
type ReleaseAnswer struct {
	Released  string `json:"released"`
	RunnerID  int    `json:"runner_id"`
	WasActive bool   `json:"was_active"`
}

// CleanupAnswer is the answer of POST /api/overlay/cleanup.
type CleanupAnswer struct {
	Released []string `json:"released"`
	// Kept are inactive ones that the Host has not had time to hear from since
	// it started; they may well be alive.
	Kept []string `json:"kept"`
}

// Health is the answer of GET /healthz.
type Health struct {
	Status string `json:"status"` // "ok", or "unhealthy", which comes with HTTP status 503
	// Reasons say what is not well, a sentence each.
	Reasons []string `json:"reasons,omitempty"`
}

// ErrorBody is the answer to a call that was refused.
type ErrorBody struct {
	Error string `json:"error"`
	Hint  string `json:"hint"`
}
