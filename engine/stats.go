// SPDX-License-Identifier: Apache-2.0

package engine

import "kohaku/encap"

// Counters count one direction of a tunnel. Frames and bytes are those of
// inner frames, Ethernet header included, in both directions; the kernel's own
// interface statistics leave the 14 bytes out on receive.
type Counters struct {
	Frames uint64 `json:"frames"`
	Bytes  uint64 `json:"bytes"`
	// SuperFrames is how many of them travelled to or from the device merged.
	SuperFrames uint64 `json:"super_frames"`
	// Calls is the number of system calls that sent datagrams.
	Calls uint64 `json:"calls,omitempty"`
	// PartialChecksums counts received frames whose sender had left the
	// checksum to hardware that they never met.
	PartialChecksums uint64 `json:"partial_checksums,omitempty"`
}

// TunnelStats is a snapshot of one tunnel.
type TunnelStats struct {
	VNI    encap.VNI `json:"vni"`
	Device string    `json:"device"`
	Remote string    `json:"remote"`
	Local  string    `json:"local,omitempty"`
	Queues int       `json:"queues"`
	Rx     Counters  `json:"rx"`
	Tx     Counters  `json:"tx"`
	// Drops counts frames that were not carried, by reason (see Drop). What the
	// device lost itself, if it counts that, stands there with "device_" in front.
	Drops map[string]uint64 `json:"drops,omitempty"`
	// Err says why the tunnel carries nothing; empty when it does.
	Err string `json:"error,omitempty"`
}

// Stats is a snapshot of what belongs to no single tunnel.
type Stats struct {
	Port    uint16            `json:"port"`
	Tunnels int               `json:"tunnels"`
	Workers int               `json:"workers"`
	UDPGSO  bool              `json:"udp_gso"` // in force now
	UDPGRO  bool              `json:"udp_gro"`
	Drops   map[string]uint64 `json:"drops,omitempty"`
	Stages  Stages            `json:"stages"`
}

func (c *traffic) snapshot() Counters {
	return Counters{c.frames.Load(), c.bytes.Load(), c.super.Load(), c.calls.Load(), c.partial.Load()}
}

// Tunnels returns a snapshot of every tunnel, sorted by VNI.
func (e *Engine) Tunnels() []TunnelStats {
	var all []TunnelStats
	for _, t := range e.sorted() {
		p := t.peer.Load()
		s := TunnelStats{
			VNI: t.vni, Device: t.dev.Name(), Remote: p.Remote.String(), Queues: len(t.queues),
			Rx: t.rx.snapshot(), Tx: t.tx.snapshot(), Drops: t.drops.nonZero(),
		}
		if d, ok := t.dev.(interface{ Losses() map[string]uint64 }); ok {
			for reason, n := range d.Losses() {
				s.Drops["device_"+reason] += n
			}
		}
		if p.Local.IsValid() {
			s.Local = p.Local.String()
		}
		if f := t.failure.Load(); f != nil {
			s.Err = f.Err.Error()
		}
		all = append(all, s)
	}
	return all
}

// Stats returns a snapshot of the engine.
func (e *Engine) Stats() Stats {
	s := Stats{
		Port: e.port, Tunnels: len(*e.tunnels.Load()), Workers: len(e.workers),
		UDPGSO: !e.gsoOff.Load(), UDPGRO: e.groOn, Drops: e.drops.nonZero(),
	}
	e.stages.addTo(&s.Stages)
	for _, w := range e.workers {
		w.stages.addTo(&s.Stages)
	}
	return s
}
