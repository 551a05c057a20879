// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

// The parsers below turn the text of one setting into its value. Their errors
// begin with "must be" and say what is allowed; whoever calls them has already
// said which key and which text.

func parseBind(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return ap, fmt.Errorf("must be ADDRESS:PORT%s", bindHint(s))
	}
	if a := ap.Addr().Unmap(); a.IsMulticast() {
		return ap, errors.New("must be an address of this machine, 0.0.0.0 or [::], not a multicast address")
	}
	if ap.Port() == 0 {
		return ap, fmt.Errorf("must have a port of 1..65535, such as %q", netip.AddrPortFrom(ap.Addr(), DefaultAPIPort))
	}
	if z := ap.Addr().Zone(); z != "" && !plainName(z) {
		return ap, errors.New("must have a network device behind the %")
	}
	return ap, nil
}

// bindHint guesses what was meant by a text that is not ADDRESS:PORT.
func bindHint(s string) string {
	example := `, such as "0.0.0.0:8000" or "[::]:8000"`
	bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	if a, err := netip.ParseAddr(bare); err == nil && a.Zone() == "" {
		return fmt.Sprintf("; did you mean %q?", netip.AddrPortFrom(a, DefaultAPIPort))
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = "", s
	}
	p, ok := portNumber(port)
	switch {
	case !ok:
		return example
	case host == "localhost":
		return fmt.Sprintf("; did you mean \"127.0.0.1:%d\"? A name is not taken here", p)
	case host == "" || host == "*":
		return fmt.Sprintf("; did you mean \"0.0.0.0:%d\" or \"[::]:%d\"?", p, p)
	}
	return example
}

// parseUnderlay reads an address that other machines send datagrams to; "" is
// the zero Addr.
func parseUnderlay(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		if ap, err := netip.ParseAddrPort(s); err == nil {
			return netip.Addr{}, fmt.Errorf("must be an IP address without a port; did you mean %q?", ap.Addr())
		}
		if p, err := netip.ParsePrefix(s); err == nil {
			return netip.Addr{}, fmt.Errorf("must be an IP address without a prefix length; did you mean %q?", p.Addr())
		}
		return netip.Addr{}, errors.New(`must be an IPv4 or IPv6 address, such as "192.168.88.53", or "" to find it out`)
	}
	a = a.Unmap()
	const other = "must be an address that the other machines can reach, "
	switch {
	case a.IsLoopback():
		return netip.Addr{}, errors.New(other + "not a loopback address: tunnels to it would end on the machine they start from")
	case a.IsUnspecified():
		return netip.Addr{}, errors.New(other + `not the unspecified one; "" finds it out`)
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, errors.New(other + "not a multicast or broadcast address")
	case a.Zone() != "" || a.Is6() && a.IsLinkLocalUnicast():
		return netip.Addr{}, errors.New(other + "not a link-local IPv6 address, which means something else on each machine")
	}
	return a, nil
}

func formatAddr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// parseAPI reads where the Host's API is and returns it with a port.
func parseAPI(s string) (string, error) {
	const want = `must be the Host's ADDRESS:PORT or NAME:PORT, such as "192.168.88.53:8000" or "[fd00::53]:8000"`
	if s == "" {
		return "", errors.New("is required: the address of the machine that runs kohaku host, such as \"192.168.88.53:8000\"")
	}
	if _, rest, ok := strings.Cut(s, "://"); ok {
		rest, _, _ = strings.Cut(rest, "/")
		if c, err := parseAPI(rest); err == nil {
			return "", fmt.Errorf("must not be a URL; did you mean %q?", c)
		}
		return "", errors.New(want)
	}
	host, port := s, uint16(DefaultAPIPort)
	bare, bracketed := s, strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]")
	if bracketed {
		bare = s[1 : len(s)-1]
	}
	switch a, err := netip.ParseAddr(bare); {
	case err == nil && a.Is6() && strings.HasSuffix(s, ":8000"):
		// Valid as a bare IPv6 address, but hardly meant as one.
		return "", fmt.Errorf("must have brackets around an IPv6 address; did you mean \"[%s]:8000\"?",
			strings.TrimSuffix(s, ":8000"))
	case err == nil:
		host = a.String()
	case strings.ContainsAny(s, ":[]"):
		h, p, err := net.SplitHostPort(s)
		if err != nil {
			return "", errors.New(want)
		}
		n, ok := portNumber(p)
		if !ok {
			return "", errors.New(want + ", with a port of 1..65535")
		}
		host, port = h, n
	}
	if a, err := netip.ParseAddr(host); err == nil {
		switch a = a.Unmap(); {
		case a.IsUnspecified() || a.IsMulticast():
			return "", errors.New(want + ", an address that this machine can connect to")
		case a.Zone() != "" && !plainName(a.Zone()):
			return "", errors.New(want + ", with a network device behind the %")
		}
		return netip.AddrPortFrom(a, port).String(), nil
	}
	if !dnsName(host) {
		return "", errors.New(want)
	}
	return fmt.Sprintf("%s:%d", host, port), nil
}

// dnsName reports whether s can be a host name (RFC 1123 section 2.1) and not a
// mistyped IPv4 address, which ends in a label of digits.
func dnsName(s string) bool {
	if len(s) > 253 {
		return false
	}
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	for _, l := range labels {
		if len(l) > 63 || !plainName(l) || strings.HasSuffix(l, "-") {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// plainName reports whether s begins with an ASCII letter or digit and goes on
// with those, '.', '_' and '-'.
func plainName(s string) bool {
	for i, c := range []byte(s) {
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return s != ""
}

func portNumber(s string) (uint16, bool) {
	n := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' || n > 65535 {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return uint16(n), 1 <= n && n <= 65535
}

// maxPath leaves room below the kernel's PATH_MAX of 4096 (limits.h) for a file
// in the directory.
const maxPath = 3840

// parseDir reads an absolute directory and returns it in its shortest form.
func parseDir(s string) (string, error) {
	switch {
	case strings.HasPrefix(s, "~") || strings.HasPrefix(s, "$"):
		return "", errors.New("must be an absolute path; ~ and variables are not expanded")
	case !filepath.IsAbs(s):
		return "", fmt.Errorf("must be an absolute path, such as %q", defaultStateDir)
	case strings.ContainsFunc(s, unicode.IsControl):
		return "", errors.New("must be a path without control characters")
	}
	s = filepath.Clean(s)
	if len(s) > maxPath {
		return "", fmt.Errorf("must have at most %d bytes", maxPath)
	}
	return s, nil
}

func parseJoin(s string) (string, error) {
	if s != JoinToken && s != JoinOpen {
		return "", fmt.Errorf("must be %q, or %q for a lab in which everybody is trusted", JoinToken, JoinOpen)
	}
	return s, nil
}

// maxSocketPath is what fits into an address of the kernel's (sun_path, unix(7)),
// with its final zero.
const maxSocketPath = 107

func parseAdminSocket(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	s, err := parseDir(s)
	if err == nil && len(s) > maxSocketPath {
		err = fmt.Errorf("must have at most %d bytes, which is what the kernel takes for a socket", maxSocketPath)
	}
	return s, err
}

// maxName is the kernel's bound on a hostname (HOST_NAME_MAX, limits.h).
const maxName = 64

func parseName(s string) (string, error) {
	if s != "" && (len(s) > maxName || !plainName(s)) {
		return "", fmt.Errorf(`must be at most %d letters, digits, ".", "_" and "-", the first a letter or digit, or "" for the hostname`, maxName)
	}
	return s, nil
}

func parseNetworkName(s string) (string, error) {
	switch {
	case len(s) > maxName || len(s) < 2 || !plainName(s):
		return "", fmt.Errorf(`must be 2 to %d letters, digits, ".", "_" and "-", the first a letter or digit`, maxName)
	case s == "bridge" || s == "host" || s == "none" || s == "default":
		return "", errors.New("must not be the name of a network that Docker has built in")
	}
	return s, nil
}

// parseSocket reads Docker's address. A path is taken as that of a Unix socket.
func parseSocket(s string) (string, error) {
	if s == "" {
		return s, nil
	}
	if strings.HasPrefix(s, "/") {
		s = "unix://" + s
	}
	if path, ok := strings.CutPrefix(s, "unix://"); ok && filepath.IsAbs(path) &&
		!strings.ContainsFunc(path, unicode.IsControl) {
		return s, nil
	}
	if hp, ok := strings.CutPrefix(s, "tcp://"); ok {
		if host, port, err := net.SplitHostPort(hp); err == nil {
			a, err := netip.ParseAddr(host)
			_, okPort := portNumber(port)
			if okPort && (err == nil && a.Zone() == "" || err != nil && dnsName(host)) {
				return s, nil
			}
		}
	}
	return "", errors.New(`must be "unix:///PATH" or "tcp://ADDRESS:PORT", or "" for DOCKER_HOST or the usual socket`)
}

var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

func parseLevel(s string) (slog.Level, error) {
	if l, ok := logLevels[s]; ok {
		return l, nil
	}
	hint := ""
	switch l := strings.ToLower(s); l {
	case "debug", "info", "warn", "error":
		hint = fmt.Sprintf("; did you mean %q?", l)
	case "warning":
		hint = `; did you mean "warn"?`
	case "critical", "fatal":
		hint = `; did you mean "error"?`
	}
	return 0, errors.New(`must be "debug", "info", "warn" or "error"` + hint)
}

func formatLevel(l slog.Level) string { return strings.ToLower(l.String()) }

const (
	minInterval = 100 * time.Millisecond
	maxInterval = time.Hour
)

func parseInterval(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		if _, ok := portNumber(s); ok {
			return 0, fmt.Errorf("must have a unit; did you mean %q?", s+"s")
		}
		return 0, errors.New(`must be a number with a unit, such as "5s" or "500ms"`)
	}
	if d < minInterval || d > maxInterval {
		return 0, errors.New(`must be "100ms".."1h"`)
	}
	return d, nil
}

// maxLinger is where lingering costs a whole processor and gains nothing more.
const maxLinger = 10 * time.Millisecond

func parseLinger(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		return 0, errors.New(`must be a number with a unit, such as "100us"`)
	case d < 0 || d > maxLinger:
		return 0, errors.New(`must be "0s" (not at all) .. "10ms"`)
	}
	return d, nil
}

func parseFastPath(s string) (string, error) {
	if s != FastPathAuto && s != FastPathOff {
		return "", fmt.Errorf("must be %q or %q", FastPathAuto, FastPathOff)
	}
	return s, nil
}

func parseDevice(s string) (string, error) {
	if s != DeviceTAP && s != DeviceTUN {
		return "", fmt.Errorf("must be %q or %q", DeviceTAP, DeviceTUN)
	}
	return s, nil
}

// parseRunnerDevice takes no TUN: the Runner's device is a port of its bridge.
func parseRunnerDevice(s string) (string, error) {
	if s == DeviceTUN {
		return "", fmt.Errorf("must be %q on a Runner: %s is a port of the bridge %s, and a bridge takes Ethernet devices only "+
			"(a machine without containers reaches the overlay with: kohaku tunnel --device tun)", DeviceTAP, RunnerTunnelDevice, BridgeDevice)
	}
	return parseDevice(s)
}

// Texts of engine.df.
const (
	dfUnset = "unset"
	dfSet   = "set"
)

func parseDF(s string) (bool, error) {
	if s != dfSet && s != dfUnset {
		return false, fmt.Errorf("must be %q or %q", dfUnset, dfSet)
	}
	return s == dfSet, nil
}

func formatDF(set bool) string {
	if set {
		return dfSet
	}
	return dfUnset
}

// parsePlanSetting is ParsePlan without the input in the message, which the
// problem shows anyway.
func parsePlanSetting(s string) (Plan, error) {
	p, err := ParsePlan(s)
	var pe *PlanError
	if errors.As(err, &pe) {
		msg := "must be BASE/PREFIX/NODE_BITS/SUBNET_BITS: " + pe.Reason
		if pe.Hint != "" {
			msg += fmt.Sprintf("; did you mean %q?", pe.Hint)
		}
		return p, errors.New(msg)
	}
	return p, err
}

func text(s string) string { return s }
