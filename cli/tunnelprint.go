// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"kohaku/engine"
	"kohaku/tun"
)

// tunnelReport is what the command prints when it ends.
type tunnelReport struct {
	Seconds float64            `json:"seconds"`
	Tunnel  engine.TunnelStats `json:"tunnel"`
	Engine  engine.Stats       `json:"engine"`
}

// tunnelNote prints a line while the tunnel runs. With --json standard output
// is kept for the one value at the end.
func (a *app) tunnelNote(f *tunnelFlags, format string, args ...any) {
	p := a.out
	if f.asJSON {
		p = a.errOut
	}
	p.linef(format, args...)
}

func (a *app) tunnelReady(f *tunnelFlags, e *engine.Engine, dev tun.Device, mtu int) {
	from := "any"
	if f.localAddr.IsValid() {
		from = f.localAddr.String()
	}
	s, o := e.Stats(), dev.Offloads()
	on := []string{}
	for _, x := range []struct {
		name string
		on   bool
	}{{"tso", o.TSO}, {"uso", o.USO}, {"udp_gso", s.UDPGSO}, {"udp_gro", s.UDPGRO}} {
		if x.on {
			on = append(on, x.name)
		}
	}
	offloads := "no offloads"
	if len(on) > 0 {
		offloads = strings.Join(on, " ")
	}
	a.tunnelNote(f, "ready: %s VNI %s, %s > %s UDP %d, MTU %d, %s, %s",
		f.dev, f.vniValue, from, f.remoteAddr, e.Port(), mtu, count(len(dev.Queues()), "queue"), offloads)
}

// rateLine is one interval of --stats.
func rateLine(a, b engine.TunnelStats, d time.Duration, now time.Time) string {
	rate := func(x, y engine.Counters) string {
		return fmt.Sprintf("%.3f Gbit/s %.0f frames/s", float64(y.Bytes-x.Bytes)*8/d.Seconds()/1e9, float64(y.Frames-x.Frames)/d.Seconds())
	}
	return fmt.Sprintf("%s  rx %s  tx %s  drops %d", now.Format(time.TimeOnly), rate(a.Rx, b.Rx), rate(a.Tx, b.Tx), total(b.Drops))
}

// printCounters is the end of the command: two directions, then what was
// dropped and why.
func (a *app) printCounters(r tunnelReport) {
	row := func(name string, c engine.Counters) []cell {
		return cells(name, fmt.Sprint(c.Frames), size(c.Bytes), fmt.Sprint(c.SuperFrames))
	}
	a.out.table([]string{"", "FRAMES", "BYTES", "SUPER-FRAMES"}, [][]cell{row("received", r.Tunnel.Rx), row("sent", r.Tunnel.Tx)})
	drops := maps.Clone(r.Engine.Drops)
	if drops == nil {
		drops = map[string]uint64{}
	}
	maps.Copy(drops, r.Tunnel.Drops)
	if len(drops) == 0 {
		a.out.linef("nothing dropped, in %.1f s", r.Seconds)
		return
	}
	for _, reason := range slices.Sorted(maps.Keys(drops)) {
		a.out.linef("dropped %d: %s", drops[reason], reason)
	}
}

func total(counts map[string]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}
