// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"
	"log/slog"

	"kohaku/conf"
	"kohaku/internal/dataplane"
	"kohaku/internal/link"
)

// PlanHost says what a Host with these settings would do on this machine. It
// changes nothing.
func PlanHost(s System, o conf.HostOverlay) (Plan, error) {
	devices, err := s.Find()
	if err != nil {
		return nil, err
	}
	return ForHost(devices, o), nil
}

// PlanRunner says what a Runner with these settings would do on this machine. It
// changes nothing.
func PlanRunner(s System, o conf.RunnerOverlay) (Plan, error) {
	devices, err := s.Find()
	if err != nil {
		return nil, err
	}
	bridge, err := s.Bridge(conf.BridgeDevice)
	if err != nil {
		return nil, err
	}
	return ForRunner(devices, bridge, o), nil
}

// Handover is a take-over under way: the kernel's devices are gone, and ours are
// not all there yet. The zero Handover has nothing to do.
type Handover struct {
	Steps   []Step
	restore func() error
	devices dataplane.Devices
	log     *slog.Logger
}

// probeDevice is made and deleted again to see whether devices can be made.
const probeDevice = "kohaku-try"

// Begin carries out a plan: it removes the devices that are to be removed or taken
// over. Before that it makes sure that a device of ours can be made here. An error
// means that nothing has changed.
func Begin(s System, m dataplane.Machine, k dataplane.Devices, log *slog.Logger, p Plan) (Handover, error) {
	if err := p.Err(); err != nil {
		return Handover{}, err
	}
	steps := p.Changes()
	if len(steps) == 0 {
		return Handover{}, nil
	}
	if err := probe(m, k, log); err != nil {
		return Handover{}, fmt.Errorf("the kernel's VXLAN devices are not taken over, since no device of ours can be made here: %w", err)
	}
	var devices []Device
	for _, step := range steps {
		log.Info("a VXLAN device of the kernel goes", "device", step.Name, "vni", step.VNI, "remote", step.Remote, "port", step.Port,
			"addresses", step.Addrs, "decision", step.Verdict, "why", step.Why)
		devices = append(devices, step.Device)
	}
	restore, err := s.Remove(devices)
	if err != nil {
		return Handover{}, err
	}
	return Handover{Steps: steps, restore: restore, devices: k, log: log}, nil
}

func probe(m dataplane.Machine, k dataplane.Devices, log *slog.Logger) error {
	d, err := dataplane.Open(m, k, log, dataplane.Device{Name: probeDevice, MTU: 1400, Trial: true})
	if err != nil {
		return err
	}
	return errors.Join(d.Close(), k.Delete(probeDevice))
}

// Undo makes the kernel's devices again, in the place of ours, after cause. Our
// data plane must be closed. It gives the error to end with.
func (h Handover) Undo(cause error) error {
	if h.restore == nil {
		return cause
	}
	var errs error
	for _, s := range h.Steps {
		if info, err := h.devices.Device(s.Name); err == nil && link.IsOurs(info.Alias) || err == nil && info.Bare() {
			errs = errors.Join(errs, h.devices.Delete(s.Name))
		}
	}
	errs = errors.Join(errs, h.restore())
	if errs != nil {
		return &UndoneError{Cause: cause, Err: errs}
	}
	h.log.Warn("the take-over failed; the kernel's VXLAN devices are as they were", "error", cause)
	return &UndoneError{Cause: cause}
}

// UndoneError says that a take-over failed and was undone. Trying again would
// interrupt traffic again.
type UndoneError struct {
	Cause error
	Err   error // what could not be undone; nil: all is as it was
}

func (e *UndoneError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("take over the kernel's VXLAN devices: %v; making them again failed too: %v "+
			"(start what made them before, it will make them again)", e.Cause, e.Err)
	}
	return fmt.Sprintf("take over the kernel's VXLAN devices: %v; they are as they were", e.Cause)
}

// Unwrap gives the cause.
func (e *UndoneError) Unwrap() error { return e.Cause }
