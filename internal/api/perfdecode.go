// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"
)

const (
	maxPerfName   = 64 // device, offload, qdisc, boot id
	maxPerfTokens = 64
)

// DecodePerfStep reads and checks the body of a step. Names come back in
// canonical form.
func DecodePerfStep(r io.Reader) (PerfStep, error) { return checked[PerfStep](r) }

// DecodePerfPoll reads and checks the body of a call for tasks.
func DecodePerfPoll(r io.Reader) (PerfPoll, error) { return checked[PerfPoll](r) }

// DecodePerfReport reads and checks the body of a report.
func DecodePerfReport(r io.Reader) (PerfReport, error) { return checked[PerfReport](r) }

func (s *PerfStep) check() error {
	for field, name := range map[string]*string{"from": &s.From, "to": &s.To} {
		if *name == "" {
			continue
		}
		canonical, err := CanonicalHostname(*name)
		if err != nil {
			return &FieldError{field, err.Error()}
		}
		*name = canonical
	}
	if s.From == s.To {
		return &FieldError{"to", "a test needs two ends"}
	}
	if err := oneOf("network", s.Network, PerfUnderlay, PerfOverlay); err != nil {
		return err
	}
	if err := checkPerf(s.Mode, s.Seconds, s.Streams); err != nil {
		return err
	}
	if s.Mode == PerfRoundTrip && s.Reverse {
		return &FieldError{"reverse", "round trips go both ways"}
	}
	return nil
}

func checkPerf(mode string, seconds float64, streams int) error {
	if err := oneOf("mode", mode, PerfTCP, PerfRoundTrip); err != nil {
		return err
	}
	if !(seconds >= MinPerfSeconds && seconds <= MaxPerfSeconds) {
		return &FieldError{"seconds", fmt.Sprintf("%v is outside %v..%d", seconds, MinPerfSeconds, MaxPerfSeconds)}
	}
	return checkRange("streams", streams, 1, MaxPerfStreams)
}

func (p *PerfPoll) check() error {
	if err := CheckMachineID(p.MachineID); err != nil {
		return &FieldError{"machine_id", err.Error()}
	}
	return checkRange("runner_id", p.RunnerID, 1, maxRunnerID)
}

// Check refuses a task that an end must not begin: it comes over the network,
// too.
func (t *PerfTask) Check() error {
	if len(t.Peers) > MaxPerfDevices || len(t.Tunnels) > MaxPerfDevices {
		return &FieldError{"peers", fmt.Sprintf("at most %d peers and tunnels are allowed", MaxPerfDevices)}
	}
	for _, p := range t.Peers {
		if !usable(p) {
			return &FieldError{"peers", fmt.Sprintf("%v is not the address of one machine", p)}
		}
	}
	for _, name := range t.Tunnels {
		if err := checkText("tunnels", name, maxPerfName); err != nil {
			return err
		}
	}
	switch t.Kind {
	case PerfCancel:
		return nil
	case PerfServe:
		if !usable(t.Listen) || !usable(t.Allow) {
			return &FieldError{"listen", "a server needs the address to listen on and the one client's"}
		}
		return checkPerf(t.Mode, t.Seconds, 1)
	case PerfMeasure:
		if !usable(t.Local) || !usable(t.Server.Addr()) || t.Server.Port() == 0 {
			return &FieldError{"server", "a client needs its own address and the server's, with the port"}
		}
		return checkPerf(t.Mode, t.Seconds, t.Streams)
	}
	return oneOf("kind", t.Kind, PerfServe, PerfMeasure, PerfCancel)
}

// usable reports whether a is the address of one machine.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == "" && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func (p *PerfReport) check() error {
	who := PerfPoll{p.MachineID, p.RunnerID}
	if err := who.check(); err != nil {
		return err
	}
	if err := oneOf("state", p.State, PerfReady, PerfDone); err != nil {
		return err
	}
	if p.State == PerfReady && p.Port == 0 {
		return &FieldError{"port", "0 is not a port"}
	}
	if err := checkText("error", p.Error, maxProblemText); err != nil {
		return err
	}
	if p.Figures != nil {
		f := p.Figures
		if err := checkAmounts("figures", f.Seconds, f.Bits, f.PerSecond, f.P50, f.P90, f.P99, f.P999); err != nil {
			return err
		}
		if f.Retransmits < -1 || f.MSS < 0 || f.MSS > maxDeviceMTU {
			return &FieldError{"figures", "retransmits or mss out of range"}
		}
	}
	if p.Seen != nil {
		return p.Seen.check()
	}
	return nil
}

func (s *PerfSeen) check() error {
	if s.Runner != "" {
		if _, err := CanonicalHostname(s.Runner); err != nil {
			return &FieldError{"seen.runner", err.Error()}
		}
	}
	if err := checkText("seen.boot_id", s.BootID, maxPerfName); err != nil {
		return err
	}
	if len(s.Cores) > MaxPerfCores || len(s.Threads) > MaxPerfThreads || len(s.Underlay) > MaxPerfDevices ||
		len(s.Tunnels) > MaxPerfDevices || len(s.Missing) > MaxPerfMissing || len(s.Engine.Drops) > maxDrops {
		return &FieldError{"seen", "a list is too long"}
	}
	if err := checkRange("seen.cpus", s.CPUs, 0, 1<<16); err != nil {
		return err
	}
	if err := checkRange("seen.usable_cpus", s.Usable, 0, s.CPUs); err != nil {
		return err
	}
	if err := checkAmounts("seen", s.Seconds, s.Busy, s.Run, s.Wait, s.Throttled, s.Quota, s.Engine.Blocked); err != nil {
		return err
	}
	for _, c := range s.Cores {
		if err := checkAmounts("seen.cores", float64(c.CPU), c.Busy, c.SoftIRQ, c.Steal); err != nil {
			return err
		}
	}
	for _, t := range s.Threads {
		if err := checkAmounts("seen.threads", float64(t.TID), t.Run, t.Wait); err != nil {
			return err
		}
	}
	for _, d := range slices.Concat(s.Underlay, s.Tunnels) {
		if err := d.check(); err != nil {
			return err
		}
	}
	for reason := range s.Engine.Drops {
		if err := checkText("seen.engine.drops", reason, maxDropReason); err != nil {
			return err
		}
	}
	for _, m := range s.Missing {
		if err := checkText("seen.missing", m, maxProblemText); err != nil {
			return err
		}
	}
	return nil
}

func (d PerfDevice) check() error {
	if len(d.Off) > maxPerfOff {
		return &FieldError{"seen.underlay.off", "the list is too long"}
	}
	for _, text := range append([]string{d.Name, d.Qdisc}, d.Off...) {
		if err := checkText("seen.underlay", text, maxPerfName); err != nil {
			return err
		}
	}
	return checkRange("seen.underlay.mtu", d.MTU, 0, 1<<31-1)
}

// CheckPerfToken reports whether s can be the token of a session.
func CheckPerfToken(s string) error {
	if len(s) == 0 || len(s) > maxPerfTokens || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		return &FieldError{"token", "that is not the token of a session"}
	}
	return nil
}

// checkAmounts refuses what no amount can be.
func checkAmounts(field string, all ...float64) error {
	for _, v := range all {
		if !(v >= 0) || math.IsInf(v, 0) {
			return &FieldError{field, fmt.Sprintf("%v is not an amount", v)}
		}
	}
	return nil
}

func oneOf(field, have string, known ...string) error {
	if slices.Contains(known, have) {
		return nil
	}
	return &FieldError{field, fmt.Sprintf("%q is none of %s", Printable(have), strings.Join(known, ", "))}
}

// FitText cuts a text of unknown origin down to what a report may carry.
func FitText(s string) string {
	if s == "" {
		return ""
	}
	return FitProblems([]string{s})[0]
}
