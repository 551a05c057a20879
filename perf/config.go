// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"time"

	"kohaku/perf/iperf"
)

// Mode says what a test measures.
type Mode string

// The modes of a test.
const (
	Throughput Mode = ""                  // bytes and datagrams, iperf3's own test
	RoundTrip  Mode = iperf.ModeRoundTrip // a request and its answer, one after the other on each stream
	Connect    Mode = iperf.ModeConnect   // TCP connections made, used for one request and closed
)

// DefaultUDPRate is the rate that iperf3 uses for UDP when none is given, in
// bit/s. Config.Rate does not apply it: there zero is unlimited; a command does.
const DefaultUDPRate = iperf.DefaultUDPRate

// ClientConfig says what RunClient measures and how. Zero fields have the
// defaults that iperf3 has, where not stated otherwise.
type ClientConfig struct {
	Server   string // "host", "host:port" or "[v6]:port"
	Port     int    // where Server names none; 0: 5201
	Local    netip.Addr
	UDP      bool
	Mode     Mode
	Streams  int           // in each direction; 0: 1; at most 128
	Duration time.Duration // 0: 10 s, or until Bytes are through
	Bytes    int64         // over all streams; 0: Duration decides
	Omit     time.Duration // at the start, does not count; a stock server does whole seconds only
	Reverse  bool          // the server sends
	Bidir    bool          // both send

	// Length is the size of a write (TCP; 0: 128 KiB), of a datagram's payload
	// (UDP; 0: what fits the path's MTU, by the control connection's segment
	// size), or of a request and of its answer (RoundTrip; 0: 64).
	Length  int
	Rate    int64 // bit/s of each stream; 0: unlimited, for UDP too
	Window  int   // socket buffers in bytes; 0: see DefaultUDPWindow, for TCP the kernel decides
	NoDelay bool  // TCP_NODELAY on the streams
	// Burst is how many datagrams go to the kernel in one call when the rate is
	// unlimited; 0: 64.
	Burst int
	// Wide asks for 64-bit sequence numbers, needed beyond 2^32 datagrams.
	Wide bool

	// Dial opens all connections through another TCP/IP stack than the machine's,
	// "tcp" and "udp"; Server must be an IP address that it reaches. Window, Local
	// and the kernel's view of TCP do not apply then. nil: the machine's stack.
	Dial Dial

	// Dedicated tells that the process does nothing else: a round trip may then
	// keep the runtime waiting for up to a millisecond, and is measured better.
	Dedicated bool

	// Gate decides when the test sends; Meter counts its requests, those outside
	// its window are not in the Result's Latency. nil: it sends all the time, and
	// all count. They are for tests in which this end sends as fast as it goes.
	Gate  *Gate
	Meter *Meter

	ConnectTimeout time.Duration // 0: 10 s
	Interval       time.Duration // 0: no intervals, otherwise at least 100 ms
	OnStart        func(*Result) // the streams stand, the test starts; the Result is not final
	OnInterval     func(*Interval)
}

// DefaultUDPWindow is the receive buffer that UDP streams ask for when no
// window is given, in bytes: enough for a receiver that does not get a processor
// for a few milliseconds. The kernel grants what net.core.rmem_max allows, or
// all of it to a privileged process.
const DefaultUDPWindow = 4 << 20

// ServerConfig says how Serve serves.
type ServerConfig struct {
	// Listen is where to listen, TCP and UDP. The zero port is 5201; with a
	// Listener it is not used.
	Listen netip.AddrPort
	// Listener is a TCP listener to use instead; Serve closes it.
	Listener *net.TCPListener
	// Allow lists who may run tests; empty: everybody who can connect. Others
	// get the answer of a busy server.
	Allow []netip.Prefix
	// MaxDuration bounds a test; 0: a day. A client that asks for more is refused.
	MaxDuration time.Duration
	// MaxRate bounds the sum of the rates that a client asks for, in bit/s; 0: no
	// bound. With a bound, unlimited tests are refused.
	MaxRate int64
	// Dedicated is ClientConfig.Dedicated.
	Dedicated bool
	// Meter counts what the tests send here, one after the other; nil: nobody asks.
	Meter *Meter
	// OneOff ends Serve after one test.
	OneOff bool
	// IdleTimeout ends a test whose client has sent nothing for so long, while
	// data should come; 0: 120 s.
	IdleTimeout time.Duration

	Interval   time.Duration // 0: no intervals, otherwise at least 100 ms
	OnListen   func(netip.AddrPort)
	OnStart    func(*Result)
	OnInterval func(*Interval)
	// OnResult is called at the end of every test, the failed and interrupted
	// ones too (Result.Err). Calls do not overlap.
	OnResult func(*Result)
	Log      *slog.Logger // nil: nothing is logged
}

// MinInterval is the shortest time between two interval reports.
const MinInterval = 100 * time.Millisecond

// Check fills in defaults and refuses what cannot be measured. RunClient does it
// too; a command does it to tell mistakes in its flags from a failed test.
func (c *ClientConfig) Check() error {
	if c.Server == "" {
		return errors.New("no server to measure against: give its address")
	}
	if _, _, err := c.target(); err != nil {
		return err
	}
	if c.Streams == 0 {
		c.Streams = 1
	}
	if c.Streams < 1 || c.Streams > iperf.MaxStreams {
		return fmt.Errorf("%d streams: give 1 to %d", c.Streams, iperf.MaxStreams)
	}
	if c.Duration == 0 && c.Bytes == 0 {
		c.Duration = 10 * time.Second
	}
	if c.Duration != 0 && c.Bytes != 0 {
		return errors.New("a duration and an amount of bytes at once: only one of them can end the test")
	}
	if c.Duration != 0 && (c.Duration < MinInterval || c.Duration > iperf.MaxDuration*time.Second) {
		return fmt.Errorf("duration %v: give %v to %d seconds", c.Duration, MinInterval, iperf.MaxDuration)
	}
	if c.Omit < 0 || c.Omit > iperf.MaxOmit*time.Second || c.Omit%time.Millisecond != 0 {
		return fmt.Errorf("omit %v: give whole milliseconds, at most %d seconds", c.Omit, iperf.MaxOmit)
	}
	if c.Reverse && c.Bidir {
		return errors.New("reverse and bidirectional at once: bidirectional includes reverse")
	}
	if c.Interval != 0 && c.Interval < MinInterval {
		return fmt.Errorf("interval %v: give at least %v", c.Interval, MinInterval)
	}
	if c.Bytes < 0 || c.Rate < 0 || c.Window < 0 || c.Window > iperf.MaxWindow {
		return errors.New("bytes, rate and window must not be negative, and a window not above 512 MiB")
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 10 * time.Second
	}
	if c.Burst == 0 {
		c.Burst = defaultBurst
	}
	if c.Burst < 1 || c.Burst > maxBurst {
		return fmt.Errorf("burst %d: give 1 to %d", c.Burst, maxBurst)
	}
	if c.Gate != nil && (c.Reverse || c.Bidir || c.Rate != 0 || c.Bytes != 0 || c.Omit != 0 || c.Dial != nil) {
		return errors.New("a test behind a gate sends, as fast as it goes, through this machine's stack: reverse, bidirectional, rate, bytes, omit and dial do not apply")
	}
	return c.checkMode()
}

// checkMode is the part of Check that depends on what is measured.
func (c *ClientConfig) checkMode() error {
	lo, hi := 1, iperf.MaxBlockSize
	if c.UDP {
		lo, hi = iperf.MinUDPBlockSize, iperf.MaxUDPBlockSize
	}
	switch c.Mode {
	case Throughput:
		if c.Length == 0 && !c.UDP {
			c.Length = iperf.DefaultTCPBlock
		}
	case RoundTrip, Connect:
		if c.Reverse || c.Bidir || c.Bytes != 0 || c.Rate != 0 || c.Omit != 0 {
			return fmt.Errorf("mode %s measures one request after the other: reverse, bidirectional, bytes, rate and omit do not apply", c.Mode)
		}
		if c.Mode == Connect && c.UDP {
			return errors.New("connections per second are a matter of TCP, not of UDP")
		}
		if c.Length == 0 {
			c.Length = 64
		}
		hi = min(hi, maxRequest)
	default:
		return fmt.Errorf("mode %q: throughput (empty), %q and %q are known", c.Mode, RoundTrip, Connect)
	}
	if c.Length != 0 && (c.Length < lo || c.Length > hi) {
		return fmt.Errorf("length %d: give %d to %d", c.Length, lo, hi)
	}
	return nil
}

// target splits Server into what can be dialled.
func (c *ClientConfig) target() (host string, port int, err error) {
	port = c.Port
	if port == 0 {
		port = iperf.DefaultPort
	}
	if a, err := netip.ParseAddr(c.Server); err == nil {
		return a.String(), port, nil
	}
	host, p, err := net.SplitHostPort(c.Server)
	if err != nil {
		return c.Server, port, nil
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("server %q: the port must be a number from 1 to 65535", c.Server)
	}
	return host, port, nil
}

// params gives what the client sends to the server.
func (c *ClientConfig) params() *iperf.Params {
	p := &iperf.Params{
		TCP: iperf.Flag(!c.UDP), UDP: iperf.Flag(c.UDP),
		Omit:          iperf.Number(c.Omit / time.Second),
		Time:          iperf.Number((c.Duration + time.Second - 1) / time.Second),
		Num:           iperf.Number(c.Bytes),
		Parallel:      iperf.Number(c.Streams),
		Reverse:       iperf.Flag(c.Reverse),
		Bidirectional: iperf.Flag(c.Bidir),
		Window:        iperf.Number(c.Window),
		Len:           iperf.Number(c.Length),
		Bandwidth:     iperf.Number(c.Rate),
		PacingTimer:   1000,
		NoDelay:       iperf.Flag(c.NoDelay),
		ClientVersion: Version,
		Kohaku:        &iperf.Extension{Version: 1, Mode: string(c.Mode)},
	}
	if c.Wide {
		p.Counters64 = 1
	}
	if c.Omit%time.Second != 0 {
		p.Kohaku.OmitMs = iperf.Number(c.Omit / time.Millisecond)
	}
	return p
}
