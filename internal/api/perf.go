// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/netip"
	"time"
)

// Paths of the calls for measurements. A person's command opens a session, has
// the Host carry out one step after the other, and ends it. PathPerfTasks and
// PathPerfReport are followed by a Runner's hostname: there Runners fetch what
// they are to do and tell what came of it.
const (
	PathPerfSession = "/api/perf/session"
	PathPerfTasks   = "/api/perf/tasks/"
	PathPerfReport  = "/api/perf/report/"
)

// Bounds of measurements.
const (
	// PerfLease is how long a session lives after its last step; with it ends all
	// that was opened for it.
	PerfLease = 60 * time.Second
	// PerfHold is how long a call for tasks waits for one to come.
	PerfHold = 20 * time.Second
	// MaxPerfSeconds bounds one step.
	MaxPerfSeconds = 60
	// MaxPerfStreams bounds the flows of one step.
	MaxPerfStreams = 64
	// MinPerfSeconds is the shortest step.
	MinPerfSeconds = 0.2
	// PerfPort is where an end answers as a server, or if that is taken at a port
	// of the kernel's choice.
	PerfPort = 5201
)

// Networks of a step.
const (
	PerfUnderlay = "underlay"
	PerfOverlay  = "overlay"
)

// Modes of a step.
const (
	PerfTCP       = "tcp" // bytes through
	PerfRoundTrip = "rr"  // one request after the other
)

// Kinds of tasks.
const (
	PerfServe   = "serve"   // answer one test
	PerfMeasure = "measure" // run one
	PerfCancel  = "cancel"  // end the task with the same id
)

// States of a report.
const (
	PerfReady = "ready" // the server listens; PerfDone follows
	PerfDone  = "done"
)

// PerfSession is the answer to POST of PathPerfSession.
type PerfSession struct {
	// Token goes into the path of the session's other calls. It is a secret.
	Token        string  `json:"token"`
	LeaseSeconds float64 `json:"lease_seconds"`
}

// PerfStep is the body of POST PathPerfSession/{token}: one test, from the
// client's end to the server's. An empty name is the Host. The Host knows the
// addresses: nobody can have a Runner measure against anything else.
type PerfStep struct {
	From    string  `json:"from"`
	To      string  `json:"to"`
	Network string  `json:"network"`
	Mode    string  `json:"mode"`
	Streams int     `json:"streams"`
	Seconds float64 `json:"seconds"`
	Reverse bool    `json:"reverse,omitempty"` // To sends
}

// PerfStepAnswer is what a step measured, and what the machines on the way saw
// meanwhile: From, To, and the Host if it is neither.
type PerfStepAnswer struct {
	Client  netip.Addr     `json:"client"`
	Server  netip.AddrPort `json:"server"`
	Figures PerfFigures    `json:"figures"`
	Seen    []PerfSeen     `json:"seen"`
}

// PerfFigures are those of one test.
type PerfFigures struct {
	Seconds     float64 `json:"seconds"`
	Bits        float64 `json:"bits_per_second,omitempty"` // payload that arrived
	Retransmits int64   `json:"retransmits,omitempty"`     // -1: not known
	MSS         int     `json:"mss,omitempty"`             // bytes, of the control connection
	// Round trips.
	PerSecond float64 `json:"per_second,omitempty"`
	P50       float64 `json:"p50_us,omitempty"` // microseconds
	P90       float64 `json:"p90_us,omitempty"`
	P99       float64 `json:"p99_us,omitempty"`
	P999      float64 `json:"p99_9_us,omitempty"`
}

// PerfSeen is what one machine saw of itself while a test ran. Shares are of the
// time, 0 to 1.
type PerfSeen struct {
	Runner string `json:"runner"` // empty: the Host
	// BootID is the same for machines that are namespaces of one kernel, and so
	// have the same processors.
	BootID  string     `json:"boot_id"`
	Seconds float64    `json:"seconds"`
	CPUs    int        `json:"cpus"`
	Usable  int        `json:"usable_cpus"` // those that the daemon may run on
	Busy    float64    `json:"busy"`        // of these, together
	Cores   []PerfCore `json:"cores"`       // of all, the busiest first, at most MaxPerfCores
	// Run and Wait are what the daemon's threads together ran and, though ready
	// to, did not, in processors: 1.5 is one and a half.
	Run     float64      `json:"run"`
	Wait    float64      `json:"wait"`
	Threads []PerfThread `json:"threads"` // the busiest first, at most MaxPerfThreads
	// Throttled is the share of periods in which the daemon's control group used
	// up its processor quota; Quota is that, in processors, 0 for none.
	Throttled float64      `json:"throttled,omitempty"`
	Quota     float64      `json:"quota,omitempty"`
	Underlay  []PerfDevice `json:"underlay"` // toward the tunnels' other ends
	Tunnels   []PerfDevice `json:"tunnels"`
	Engine    PerfEngine   `json:"engine"`
	// UDPRcvbufErrors are datagrams that a full socket lost on this machine.
	UDPRcvbufErrors uint64 `json:"udp_rcvbuf_errors"`
	UDPSndbufErrors uint64 `json:"udp_sndbuf_errors"`
	// Missing says what could not be looked at.
	Missing []string `json:"missing,omitempty"`
}

// Bounds of the lists in PerfSeen, which keep it below MaxBody.
const (
	MaxPerfCores   = 64
	MaxPerfThreads = 32
	MaxPerfDevices = 4
	MaxPerfMissing = 8
	maxPerfOff     = 16
)

// PerfCore is one processor.
type PerfCore struct {
	CPU     int     `json:"cpu"`
	Usable  bool    `json:"usable"`  // the daemon may run there
	Busy    float64 `json:"busy"`    // with SoftIRQ, without Steal
	SoftIRQ float64 `json:"softirq"` // network packets are received there
	Steal   float64 `json:"steal"`   // wanted, but the hypervisor ran something else
}

// PerfThread is one thread of the daemon.
type PerfThread struct {
	TID  int     `json:"tid"`
	Run  float64 `json:"run"`
	Wait float64 `json:"wait"` // ready, but without a processor
}

// PerfDevice is one network device.
type PerfDevice struct {
	Name string `json:"name"`
	MTU  int    `json:"mtu"`
	// Off are offloads that could be on and are not, by the names of ethtool -K.
	Off   []string `json:"off,omitempty"`
	Qdisc string   `json:"qdisc,omitempty"` // of the root
	// Rate is what the qdisc lets through in bit/s; 0: it sets no limit.
	Rate  uint64 `json:"rate,omitempty"`
	Drops uint64 `json:"drops"` // of the device and its qdisc, both ways, meanwhile
}

// PerfEngine is what the data plane counted meanwhile.
type PerfEngine struct {
	Workers      int               `json:"workers"`
	UDPGSO       bool              `json:"udp_gso"` // in force
	UDPGRO       bool              `json:"udp_gro"`
	Sent         uint64            `json:"sent"`     // datagrams
	Received     uint64            `json:"received"` // datagrams
	Sends        uint64            `json:"sends"`    // calls
	Receives     uint64            `json:"receives"` // calls
	SendsBlocked uint64            `json:"sends_blocked"`
	Blocked      float64           `json:"blocked"` // share of the time of one thread
	Drops        map[string]uint64 `json:"drops,omitempty"`
}

// PerfPoll is the body of POST PathPerfTasks/{hostname}.
type PerfPoll struct {
	MachineID string `json:"machine_id"`
	RunnerID  int    `json:"runner_id"`
}

// PerfTasks is the answer to it; it may be empty.
type PerfTasks struct {
	Tasks []PerfTask `json:"tasks"`
}

// PerfTask is one thing that an end does. What is not of its kind is zero.
type PerfTask struct {
	ID      uint64       `json:"id"`
	Kind    string       `json:"kind"`
	Mode    string       `json:"mode,omitempty"`
	Seconds float64      `json:"seconds,omitempty"`
	Peers   []netip.Addr `json:"peers,omitempty"`   // underlay addresses whose devices matter
	Tunnels []string     `json:"tunnels,omitempty"` // own devices that matter

	// Serve: listen here, answer this address alone, for one test.
	Listen netip.Addr `json:"listen,omitzero"`
	Allow  netip.Addr `json:"allow,omitzero"`

	// Measure: from here, against this.
	Local   netip.Addr     `json:"local,omitzero"`
	Server  netip.AddrPort `json:"server,omitzero"`
	Streams int            `json:"streams,omitempty"`
	Reverse bool           `json:"reverse,omitempty"`
}

// PerfReport is the body of POST PathPerfReport/{hostname}.
type PerfReport struct {
	MachineID string       `json:"machine_id"`
	RunnerID  int          `json:"runner_id"`
	TaskID    uint64       `json:"task_id"`
	State     string       `json:"state"`
	Port      uint16       `json:"port,omitempty"`  // PerfReady
	Error     string       `json:"error,omitempty"` // PerfDone that came to nothing
	Figures   *PerfFigures `json:"figures,omitempty"`
	Seen      *PerfSeen    `json:"seen,omitempty"`
}

// PerfOK is the answer to calls that have nothing to tell.
type PerfOK struct {
	OK bool `json:"ok"`
}
