// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"
)

// Host is host.toml: the settings of the Host daemon.
type Host struct {
	Host      HostSection
	Overlay   HostOverlay
	Heartbeat Heartbeat
	Engine    Engine

	src *source // where the values came from; nil when built in code
}

// HostSection is [host]: the daemon itself.
type HostSection struct {
	Bind             netip.AddrPort // where the HTTP API listens
	ReachableAddress netip.Addr     // underlay address given to runners; zero: found from the route to them
	Join             string         // JoinToken or JoinOpen: who may call the API
	AdminSocket      string         // absolute path of the admin socket; "": see SocketPath
	StateDir         string         // absolute path
	LogLevel         slog.Level     // debug, info, warn or error
	Metrics          netip.AddrPort // where /metrics and /healthz are served over plain HTTP; zero: nowhere
}

// Values of [HostSection].Join.
const (
	JoinToken = "token" // TLS; runners join with a token and then have a credential
	JoinOpen  = "open"  // plain HTTP for everybody who reaches the port
)

// runtimeDir is the machine's place for sockets (hier(7)), ours in it the same
// as systemd's RuntimeDirectory=kohakuriver.
const runtimeDir = "/run/kohakuriver"

// SocketPath is where the Host's admin socket is: AdminSocket, or when that is
// not set host.sock in /run/kohakuriver, or in a state directory of one's own.
func (s HostSection) SocketPath() string {
	switch {
	case s.AdminSocket != "":
		return s.AdminSocket
	case s.StateDir != defaultStateDir:
		return filepath.Join(s.StateDir, "host.sock")
	}
	return filepath.Join(runtimeDir, "host.sock")
}

// HostOverlay is [overlay] of the Host, which hands these to its runners.
type HostOverlay struct {
	Enabled   bool
	Subnet    Plan
	VXLANID   uint32 // runner N has VNI VXLANID+N, at most 2^24-1
	VXLANPort uint16 // outer UDP port, never 0
	MTU       int    // inner MTU in bytes; 0: find out from the underlay
}

// Heartbeat is [heartbeat]: how runners show that they are alive.
type Heartbeat struct {
	Interval      time.Duration // at least 100 ms
	TimeoutFactor int           // so many missed intervals make a runner inactive; at least 2
}

// Engine is [engine], the data plane's settings, the same on Host and Runner
// but for the default of AntiSpoof.
type Engine struct {
	Device   string // DeviceTAP or DeviceTUN
	Queues   int    // TAP queues per device; 0: as many as help
	FastPath string // FastPathAuto or FastPathOff
	// Linger is how long a worker looks on for frames before it sleeps; 0: not at
	// all. See engine.Config.
	Linger time.Duration
	// Nice is the nice value of the threads that carry frames, -20..19; 0: as the
	// process has it.
	Nice      int
	AntiSpoof bool // drop inner frames whose source is not in the peer's subnet
	Offloads  Offloads

	// How the outer IP headers look, and which are accepted.
	TTL           int  // 1..255; 0: the system's default
	TOS           TOS  // of the outer header, but for its ECN bits
	DF            bool // set "don't fragment" (IPv4)
	ZeroChecksum6 bool // accept datagrams over IPv6 without a UDP checksum
}

// Values of [Engine].Device.
const (
	DeviceTAP = "tap" // Ethernet; may be a bridge's port
	DeviceTUN = "tun" // IP alone; for an end that routes
)

// TOS is the outer TOS or traffic class.
type TOS struct {
	Value   uint8 // a multiple of 4: the two low bits are ECN's; what is not IP gets it, too, when Inherit is set
	Inherit bool  // copy the inner packet's
}

// Values of [Engine].FastPath.
const (
	FastPathAuto = "auto"
	FastPathOff  = "off"
)

// Offloads switches kernel offloads off for good (false), or lets the engine
// use each one that it finds to work (true).
type Offloads struct {
	TSO    bool // TCP super-frames to and from TAP devices
	USO    bool // UDP super-frames to and from TAP devices
	UDPGSO bool // many datagrams in one send on the underlay socket (UDP_SEGMENT)
	UDPGRO bool // many datagrams in one receive on the underlay socket (UDP_GRO)
	// TrustKernel uses them also on kernels that are known to break them.
	TrustKernel bool
}

// DefaultHost returns the settings of an empty host.toml.
func DefaultHost() *Host {
	return &Host{
		Host: HostSection{
			Bind:     netip.AddrPortFrom(netip.IPv4Unspecified(), DefaultAPIPort),
			Join:     JoinToken,
			StateDir: defaultStateDir,
			LogLevel: slog.LevelInfo,
			Metrics:  netip.MustParseAddrPort(defaultHostMetrics),
		},
		Overlay: HostOverlay{
			Enabled:   true,
			Subnet:    MustParsePlan("10.0.0.0/8/8/16"),
			VXLANID:   100,
			VXLANPort: 4789, // RFC 7348 section 5
		},
		Heartbeat: Heartbeat{Interval: 5 * time.Second, TimeoutFactor: 6},
		Engine:    defaultEngine(true),
	}
}

// DefaultAPIPort is the port of the Host's HTTP API where none is written.
const DefaultAPIPort = 8000

// Two ports, since a Host and a Runner may share a machine in a lab.
const (
	defaultHostMetrics   = "127.0.0.1:8003"
	defaultRunnerMetrics = "127.0.0.1:8004"
)

const defaultStateDir = "/var/lib/kohakuriver"

// defaultLinger is the engine's own default, written out.
const defaultLinger = 100 * time.Microsecond

// defaultNice is engine.DefaultNice, written out.
const defaultNice = -20

func defaultEngine(antiSpoof bool) Engine {
	return Engine{
		Device:    DeviceTAP,
		FastPath:  FastPathAuto,
		Linger:    defaultLinger,
		Nice:      defaultNice,
		AntiSpoof: antiSpoof,
		Offloads:  Offloads{TSO: true, USO: true, UDPGSO: true, UDPGRO: true},
	}
}

// LoadHost reads the Host's settings from path; an empty path gives the
// defaults. What is wrong with the contents comes back as an *[Error]; a file
// that cannot be read matches the usual sentinels of io/fs.
func LoadHost(path string) (*Host, error) {
	if path == "" {
		return DefaultHost(), nil
	}
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return ParseHost(path, data)
}

// ParseHost reads the Host's settings from the text of a host.toml; name stands
// for the file in messages. The error is an *[Error] with all problems.
func ParseHost(name string, data []byte) (*Host, error) {
	h := DefaultHost()
	src, err := decode(name, data, h.schema())
	if err != nil {
		return nil, err
	}
	h.src = src
	return h, nil
}

// Validate checks settings that were built or changed in code, as [ParseHost]
// checks a file. The error is an *[Error] without lines.
func (h *Host) Validate() error { return validate("host settings", h.schema()) }

// Equal reports whether h and o hold the same settings, wherever they came
// from.
func (h *Host) Equal(o *Host) bool {
	if h == nil || o == nil {
		return h == o
	}
	a, b := *h, *o
	a.src, b.src = nil, nil
	return a == b
}

// TOML prints all settings in force as a host.toml that [ParseHost] reads back
// to the same settings; the comment behind each says which line of which file
// it is from, or that it is the default.
func (h *Host) TOML() []byte { return render(h.schema(), DefaultHost().schema(), h.src) }
