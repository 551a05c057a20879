// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Bounds that iperf3 itself has (src/iperf.h).
const (
	MaxStreams        = 128
	MaxDuration       = 86400 // seconds
	MaxOmit           = 600   // seconds
	MaxBlockSize      = 1 << 20
	MaxUDPBlockSize   = 65507
	MinUDPBlockSize   = 16
	MaxWindow         = 512 << 20
	MaxMSS            = 9 << 10
	MaxBurst          = 1000
	DefaultPort       = 5201
	DefaultTCPBlock   = 128 << 10
	DefaultUDPBlock   = 1460
	DefaultUDPRate    = 1 << 20 // bits per second
	maxRate           = 1 << 50
	maxExtensionField = 64
)

// Params is the JSON that a client sends: what it wants to be measured. Field
// names on the wire are iperf3's. A zero field was not sent and stands for the
// default.
type Params struct {
	TCP           Flag   `json:"tcp,omitempty"`
	UDP           Flag   `json:"udp,omitempty"`
	SCTP          Flag   `json:"sctp,omitempty"`
	Omit          Number `json:"omit"`               // seconds at the start that do not count
	Time          Number `json:"time"`               // seconds; 0: until Num or BlockCount is reached
	Num           Number `json:"num"`                // bytes over all streams
	BlockCount    Number `json:"blockcount"`         // blocks over all streams
	MSS           Number `json:"MSS,omitempty"`      // TCP_MAXSEG
	NoDelay       Flag   `json:"nodelay,omitempty"`  // TCP_NODELAY
	Parallel      Number `json:"parallel,omitempty"` // streams in each direction
	Reverse       Flag   `json:"reverse,omitempty"`  // the server sends
	Bidirectional Flag   `json:"bidirectional,omitempty"`
	Window        Number `json:"window,omitempty"`    // socket buffers, bytes
	Len           Number `json:"len,omitempty"`       // bytes a write, or a datagram
	Bandwidth     Number `json:"bandwidth,omitempty"` // bits per second and stream; 0: as fast as it goes
	PacingTimer   Number `json:"pacing_timer,omitempty"`
	Burst         Number `json:"burst,omitempty"`
	TOS           Number `json:"TOS,omitempty"`
	Congestion    string `json:"congestion,omitempty"`
	Counters64    Number `json:"udp_counters_64bit,omitempty"` // sequence numbers of 64 bits; a number, not a boolean
	AuthToken     string `json:"authtoken,omitempty"`
	ClientVersion string `json:"client_version,omitempty"`

	// Kohaku carries our own wishes; a stock server does not look at it.
	Kohaku *Extension `json:"kohaku,omitempty"`
}

// Extension is our own part of the parameters. With a Mode or an OmitMs the
// client expects CreateExtended where a stock server says CreateStreams.
type Extension struct {
	Version Number `json:"version"`
	Mode    string `json:"mode,omitempty"`    // "": throughput, "rr": round trips, "crr": connections
	OmitMs  Number `json:"omit_ms,omitempty"` // milliseconds, in place of Params.Omit
}

// The modes of Extension.
const (
	ModeRoundTrip = "rr"
	ModeConnect   = "crr"
)

// MarshalJSON writes a flag as iperf3 releases of all ages understand it: some
// look only whether the key is there, newer ones want a true.
func (f Flag) MarshalJSON() ([]byte, error) { return json.Marshal(bool(f)) }

// ParamError tells which parameter a server refuses and which Code says so to
// the client.
type ParamError struct {
	Code Code
	What string
}

// Error gives the reason in words.
func (e *ParamError) Error() string { return e.What }

// ReadParams reads, decodes and checks a client's parameters. Every error but
// a failed read is a *ParamError.
func ReadParams(r io.Reader) (*Params, error) {
	b, err := ReadFrame(r, MaxParams)
	if err != nil {
		return nil, err
	}
	return ParseParams(b)
}

// ParseParams decodes and checks parameters. Fields not sent have their
// defaults filled in: TCP, one stream, the usual block size.
func ParseParams(b []byte) (*Params, error) {
	var p Params
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, &ParamError{CodeRecvParams, fmt.Sprintf("the client's parameters are not what iperf3 sends: %v", err)}
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return &p, nil
}

// check fills in defaults and refuses what is out of bounds.
func (p *Params) check() error {
	refuse := func(c Code, format string, args ...any) error {
		return &ParamError{c, fmt.Sprintf(format, args...)}
	}
	if p.SCTP {
		return refuse(CodeUnsupported, "the client asks for SCTP; TCP and UDP are served")
	}
	if p.TCP && p.UDP {
		return refuse(CodeRecvParams, "the client asks for TCP and UDP at once")
	}
	p.TCP = !p.UDP
	if p.Parallel == 0 {
		p.Parallel = 1
	}
	if p.Len == 0 {
		p.Len = DefaultTCPBlock
		if p.UDP {
			p.Len = DefaultUDPBlock
		}
	}
	within := func(n Number, lo, hi Number) bool { return n >= lo && n <= hi }
	switch {
	case !within(p.Parallel, 1, MaxStreams):
		return refuse(CodeStreams, "%d streams: 1 to %d are allowed", p.Parallel, MaxStreams)
	case !within(p.Time, 0, MaxDuration):
		return refuse(CodeDuration, "%d seconds: 0 to %d are allowed", p.Time, MaxDuration)
	case !within(p.Omit, 0, MaxOmit):
		return refuse(CodeOmit, "%d seconds to omit: 0 to %d are allowed", p.Omit, MaxOmit)
	case p.Num < 0 || p.BlockCount < 0:
		return refuse(CodeRecvParams, "a negative amount of data")
	case bool(p.UDP) && !within(p.Len, MinUDPBlockSize, MaxUDPBlockSize):
		return refuse(CodeUDPBlockSize, "datagrams of %d bytes: %d to %d are allowed", p.Len, MinUDPBlockSize, MaxUDPBlockSize)
	case !within(p.Len, 1, MaxBlockSize):
		return refuse(CodeBlockSize, "blocks of %d bytes: 1 to %d are allowed", p.Len, MaxBlockSize)
	case !within(p.Window, 0, MaxWindow):
		return refuse(CodeBufferSize, "socket buffers of %d bytes: 0 to %d are allowed", p.Window, MaxWindow)
	case !within(p.MSS, 0, MaxMSS):
		return refuse(CodeRecvParams, "a segment size of %d bytes: 0 to %d are allowed", p.MSS, MaxMSS)
	case !within(p.Bandwidth, 0, maxRate):
		return refuse(CodeRecvParams, "a rate of %d bit/s", p.Bandwidth)
	case !within(p.TOS, 0, 255):
		return refuse(CodeRecvParams, "a TOS of %d: 0 to 255 are allowed", p.TOS)
	case !within(p.Burst, 0, MaxBurst):
		return refuse(CodeRecvParams, "a burst of %d: 0 to %d are allowed", p.Burst, MaxBurst)
	case len(p.Congestion) > 15:
		return refuse(CodeRecvParams, "the name of the congestion control is too long")
	case bool(p.Reverse) && bool(p.Bidirectional):
		return refuse(CodeRecvParams, "reverse and bidirectional at once")
	}
	if p.Kohaku != nil {
		if len(p.Kohaku.Mode) > maxExtensionField {
			return refuse(CodeRecvParams, "the mode's name is too long")
		}
		if !within(p.Kohaku.OmitMs, 0, MaxOmit*1000) {
			return refuse(CodeOmit, "%d milliseconds to omit: 0 to %d are allowed", p.Kohaku.OmitMs, MaxOmit*1000)
		}
		switch p.Kohaku.Mode {
		case "", ModeRoundTrip:
		case ModeConnect:
			if p.UDP {
				return refuse(CodeUnsupported, "connections per second are a matter of TCP, the client asks for UDP")
			}
		default:
			return refuse(CodeUnsupported, "the client asks for mode %q, which this server does not know", p.Kohaku.Mode)
		}
	}
	return nil
}

// Mode gives the extension's mode, "" for throughput.
func (p *Params) Mode() string {
	if p.Kohaku == nil {
		return ""
	}
	return p.Kohaku.Mode
}

// Extended reports whether only a server that knows Extension can do this.
func (p *Params) Extended() bool {
	return p.Kohaku != nil && (p.Kohaku.Mode != "" || p.Kohaku.OmitMs != 0)
}

// Omitted gives the time at the start that does not count.
func (p *Params) Omitted() time.Duration {
	if p.Kohaku != nil && p.Kohaku.OmitMs != 0 {
		return time.Duration(p.Kohaku.OmitMs) * time.Millisecond
	}
	return time.Duration(p.Omit) * time.Second
}
