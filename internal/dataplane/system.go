// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"log/slog"
	"os"
	"time"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/api"
	"kohaku/internal/link"
	"kohaku/tun"
	"kohaku/tun/l3"
)

// System is this machine: kernel devices and the engine, as the settings say.
type System struct {
	Engine conf.Engine
	Log    *slog.Logger
	Keep   Keep // nil: nobody keeps descriptors
}

// Keep keeps the descriptors of devices for the process after this one;
// service.Supervisor does.
type Keep interface {
	// Held gives those that are kept, in no order. They are the caller's, and not
	// given twice.
	Held(device string) []*os.File
	// Hold keeps copies, and drops what was kept of the device before.
	Hold(device string, fds []int)
}

// OpenDevice is Machine's.
func (s System) OpenDevice(d Device) (tun.Device, error) {
	off := Offloads(s.Engine.Offloads, nil)
	if d.kind() == conf.DeviceTUN {
		o := l3.Options{
			MTU: d.MTU, Addrs: d.Addrs, Persist: true, Router: true,
			NoOffloads: !off.TSO || !off.USO, // its two come only together
		}
		copy(o.HardwareAddr[:], d.MAC)
		// Not returned at once: a nil *l3.Device would be a non-nil tun.Device.
		dev, err := l3.Open(d.Name, o)
		if err != nil {
			return nil, err
		}
		return dev, nil
	}
	o := tun.Options{
		Queues: s.Engine.Queues, MTU: d.MTU, HardwareAddr: d.MAC, TSO: off.TSO, USO: off.USO, Persist: !d.Trial,
	}
	if s.Keep == nil || d.Trial {
		return tun.OpenTAP(d.Name, o)
	}
	o.Held = s.Keep.Held(d.Name)
	dev, err := tun.OpenTAP(d.Name, o)
	if err != nil {
		return nil, err
	}
	s.Keep.Hold(d.Name, tun.Descriptors(dev))
	return dev, nil
}

// NewPlane is Machine's.
func (s System) NewPlane(port uint16) (Plane, error) {
	off := Offloads(s.Engine.Offloads, s.Log)
	e, err := engine.New(engine.Config{
		Port: port, UDPGSO: off.UDPGSO, UDPGRO: off.UDPGRO, ZeroChecksum6: s.Engine.ZeroChecksum6,
		Linger: Linger(s.Engine.Linger), Nice: s.Engine.Nice,
		Circular: link.Kernel{}.LeadsInto, Log: s.Log,
	})
	if err != nil {
		return nil, err
	}
	return enginePlane{e, Outer(s.Engine)}, nil
}

// Linger turns the setting, in which 0 means not at all, into the engine's.
func Linger(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// Outer is how outer headers look by the settings.
func Outer(c conf.Engine) engine.Outer {
	return engine.Outer{TTL: uint8(c.TTL), TOS: c.TOS.Value, InheritTOS: c.TOS.Inherit, DF: c.DF}
}

// enginePlane shows an engine as a Plane. What it does not change is the
// engine's own method.
type enginePlane struct {
	*engine.Engine
	outer engine.Outer // of all peers
}

func (p enginePlane) Add(t Tunnel) error {
	t.Outer = p.outer
	return p.Engine.Add(t)
}

func (p enginePlane) Update(vni encap.VNI, peer Peer) error {
	peer.Outer = p.outer
	return p.Engine.Update(vni, peer)
}

func (p enginePlane) Remove(vni encap.VNI) error {
	if err := p.Engine.Remove(vni); !errors.Is(err, engine.ErrNoTunnel) {
		return err
	}
	return nil
}

func (p enginePlane) Tunnels() []Stats {
	tunnels := p.Engine.Tunnels()
	all := make([]Stats, 0, len(tunnels))
	for _, t := range tunnels {
		all = append(all, Stats{VNI: t.VNI, Device: t.Device, Err: t.Err, Counters: api.Counters{
			RxFrames: t.Rx.Frames, RxBytes: t.Rx.Bytes, TxFrames: t.Tx.Frames, TxBytes: t.Tx.Bytes, Drops: t.Drops,
		}})
	}
	return all
}

func (p enginePlane) Drops() map[string]uint64 { return p.Engine.Stats().Drops }
