// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxBody is the largest body in bytes that either end reads of a request.
	MaxBody = 64 << 10
	// MaxAnswer bounds an answer; the status of 65,535 runners stays below it.
	MaxAnswer = 64 << 20

	maxProblems    = 64
	maxProblemText = 1024
	maxDrops       = 128
	maxDropReason  = 64
	maxVersionText = 128
	maxDeviceMTU   = 65535
	maxRunnerID    = 1<<16 - 1
	minPlanText    = len("0.0.0.0/1/1/8")
	maxPlanText    = len("255.255.255.255/24/16/24")
)

// ErrBodyTooLarge is what a body longer than MaxBody is refused with.
var ErrBodyTooLarge = fmt.Errorf("the body is longer than %d bytes", MaxBody)

// FieldError names the field of a body that is missing or wrong.
type FieldError struct {
	Field  string // as in the JSON
	Reason string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Reason }

// DecodeRegister reads and checks the body of a registration. The hostname comes
// back in canonical form, addresses unmapped.
func DecodeRegister(r io.Reader) (RegisterRequest, error) { return checked[RegisterRequest](r) }

// DecodeHeartbeat reads and checks the body of a heartbeat.
func DecodeHeartbeat(r io.Reader) (Heartbeat, error) { return checked[Heartbeat](r) }

// checked decodes a body and has it checked.
func checked[T any, P interface {
	*T
	check() error
}](r io.Reader) (T, error) {
	var v, none T
	if err := decode(r, &v); err != nil {
		return none, err
	}
	if err := P(&v).check(); err != nil {
		return none, err
	}
	return v, nil
}

// decode reads exactly one JSON object of at most MaxBody bytes.
func decode(r io.Reader, into any) error {
	data, err := io.ReadAll(io.LimitReader(r, MaxBody+1))
	if err != nil {
		return fmt.Errorf("the body could not be read: %w", err)
	}
	if len(data) > MaxBody {
		return ErrBodyTooLarge
	}
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) == 0 || trimmed[0] != '{' {
		return errors.New("the body is not a JSON object")
	}
	if err := json.Unmarshal(data, into); err != nil {
		var typ *json.UnmarshalTypeError
		if errors.As(err, &typ) && typ.Field != "" {
			return &FieldError{typ.Field, fmt.Sprintf("a JSON %s does not fit here", typ.Value)}
		}
		return fmt.Errorf("the body is not valid JSON for this call: %w", err)
	}
	return nil
}

func (q *RegisterRequest) check() error {
	name, err := CanonicalHostname(q.Hostname)
	if err != nil {
		return &FieldError{"hostname", err.Error()}
	}
	q.Hostname = name
	if err := CheckMachineID(q.MachineID); err != nil {
		return &FieldError{"machine_id", err.Error()}
	}
	if q.Address, err = checkUnderlay(q.Address); err != nil {
		return err
	}
	if err := checkRange("underlay_mtu", q.UnderlayMTU, 0, maxDeviceMTU); err != nil {
		return err
	}
	if err := checkRange("previous_id", q.PreviousID, 0, maxRunnerID); err != nil {
		return err
	}
	if err := checkText("version", q.Version, maxVersionText); err != nil {
		return err
	}
	return q.Settings.check()
}

func (s Settings) check() error {
	if s.Subnet != nil {
		if n := len(*s.Subnet); n < minPlanText || n > maxPlanText {
			return &FieldError{"settings.subnet", fmt.Sprintf("%d characters are no BASE/PREFIX/NODE_BITS/SUBNET_BITS", n)}
		}
		if strings.Trim(*s.Subnet, "0123456789./") != "" {
			return &FieldError{"settings.subnet", fmt.Sprintf("%q is no BASE/PREFIX/NODE_BITS/SUBNET_BITS", *s.Subnet)}
		}
	}
	if s.VXLANPort != nil && *s.VXLANPort == 0 {
		return &FieldError{"settings.vxlan_port", "0 is not a port"}
	}
	if s.MTU != nil {
		return checkRange("settings.mtu", *s.MTU, 0, maxDeviceMTU)
	}
	return nil
}

func (h *Heartbeat) check() (err error) {
	if err := CheckMachineID(h.MachineID); err != nil {
		return &FieldError{"machine_id", err.Error()}
	}
	if err := checkRange("runner_id", h.RunnerID, 1, maxRunnerID); err != nil {
		return err
	}
	if h.Address, err = checkUnderlay(h.Address); err != nil {
		return err
	}
	if err := checkRange("underlay_mtu", h.UnderlayMTU, 0, maxDeviceMTU); err != nil {
		return err
	}
	if len(h.Problems) > maxProblems {
		return &FieldError{"problems", fmt.Sprintf("%d entries, at most %d are allowed", len(h.Problems), maxProblems)}
	}
	for _, p := range h.Problems {
		if err := checkText("problems", p, maxProblemText); err != nil {
			return err
		}
	}
	if err := h.Firewall.check(); err != nil {
		return err
	}
	if len(h.Counters.Drops) > maxDrops {
		return &FieldError{"counters.drops", fmt.Sprintf("%d reasons, at most %d are allowed", len(h.Counters.Drops), maxDrops)}
	}
	for reason := range h.Counters.Drops {
		if err := checkText("counters.drops", reason, maxDropReason); err != nil {
			return err
		}
	}
	return h.checkUsed()
}

// checkUnderlay accepts what can be the far end of a tunnel. Loopback passes here:
// whether it can work depends on where the call came from, and the Host knows.
func checkUnderlay(a netip.Addr) (netip.Addr, error) {
	a = a.Unmap()
	reason := ""
	switch {
	case !a.IsValid():
		reason = "missing; the Runner's underlay address is needed"
	case a.Zone() != "":
		reason = fmt.Sprintf("%s has a zone; use an address that is routed on the underlay", a)
	case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		reason = fmt.Sprintf("%s is not the address of one machine", a)
	case a.Is6() && a.IsLinkLocalUnicast():
		reason = fmt.Sprintf("%s is link-local; use an address that is routed on the underlay", a)
	}
	if reason != "" {
		return netip.Addr{}, &FieldError{"address", reason}
	}
	return a, nil
}

func checkRange(field string, v, low, high int) error {
	if v < low || v > high {
		return &FieldError{field, fmt.Sprintf("%d is outside %d..%d", v, low, high)}
	}
	return nil
}

func checkText(field, s string, limit int) error {
	if len(s) > limit {
		return &FieldError{field, fmt.Sprintf("a text of %d bytes, at most %d are allowed", len(s), limit)}
	}
	if !printable(s) {
		return &FieldError{field, "control characters are not allowed"}
	}
	return nil
}

// printable reports whether s can be shown in a terminal as it is.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Printable gives s with everything that could steer a terminal replaced, for
// texts of unknown origin (an error of a library, another server's answer).
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// FitProblems cuts a list of problems down to what a heartbeat may carry.
func FitProblems(problems []string) []string {
	out := slices.Clone(problems[:min(len(problems), maxProblems)])
	for i, p := range out {
		p = Printable(p)
		if len(p) > maxProblemText {
			p = strings.ToValidUTF8(p[:maxProblemText-3], "") + "..."
		}
		out[i] = p
	}
	return out
}
