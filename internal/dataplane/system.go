// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"errors"
	"log/slog"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/api"
	"kohaku/tun"
)

// System is this machine: kernel TAPs and the engine, as the settings say.
type System struct {
	Engine conf.Engine
	Log    *slog.Logger
}

// OpenTAP is Machine's.
func (s System) OpenTAP(t TAP) (tun.Device, error) {
	return tun.OpenTAP(t.Name, tun.Options{
		Queues: s.Engine.Queues, MTU: t.MTU, HardwareAddr: t.MAC,
		TSO: s.Engine.Offloads.TSO, USO: s.Engine.Offloads.USO, Persist: true,
	})
}

// NewPlane is Machine's.
func (s System) NewPlane(port uint16) (Plane, error) {
	e, err := engine.New(engine.Config{
		Port: port, UDPGSO: s.Engine.Offloads.UDPGSO, UDPGRO: s.Engine.Offloads.UDPGRO, Log: s.Log,
	})
	if err != nil {
		return nil, err
	}
	return enginePlane{e}, nil
}

// enginePlane shows an engine as a Plane. What it does not change is the
// engine's own method.
type enginePlane struct{ *engine.Engine }

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
