// SPDX-License-Identifier: Apache-2.0

package lab

import "kohaku/engine"

// engineCounters sums up what our engines did, over all machines, so that a
// figure can be read together with how the work was batched.
type engineCounters struct {
	txFrames, txSuper, txCalls uint64
	rxFrames, rxSuper          uint64
	drops                      uint64
}

// counters asks the engines; one that does not answer counts nothing.
func (b *bench) counters() engineCounters {
	var c engineCounters
	for _, p := range b.engines {
		a, err := p.ask(request{Stats: true})
		if err != nil {
			continue // the measurement itself will say what is wrong
		}
		for _, t := range a.Tunnels {
			c.add(t)
		}
	}
	return c
}

func (c *engineCounters) add(t engine.TunnelStats) {
	c.txFrames += t.Tx.Frames
	c.txSuper += t.Tx.SuperFrames
	c.txCalls += t.Tx.Calls
	c.rxFrames += t.Rx.Frames
	c.rxSuper += t.Rx.SuperFrames
	for _, n := range t.Drops {
		c.drops += n
	}
}

// describe puts what happened since into a reading's details.
func (c engineCounters) describe(since engineCounters, detail map[string]float64) {
	share := func(part, of uint64) float64 {
		if of == 0 {
			return 0
		}
		return float64(part) / float64(of)
	}
	tx, rx := c.txFrames-since.txFrames, c.rxFrames-since.rxFrames
	detail["engine_tx_frames"] = float64(tx)
	detail["engine_rx_frames"] = float64(rx)
	detail["engine_tx_frames_per_call"] = share(tx, c.txCalls-since.txCalls)
	detail["engine_tx_super_frames_per_call"] = share(c.txSuper-since.txSuper, c.txCalls-since.txCalls)
	detail["engine_rx_super_frames_per_frame"] = share(c.rxSuper-since.rxSuper, rx)
	detail["engine_drops"] = float64(c.drops - since.drops)
}
