// SPDX-License-Identifier: Apache-2.0

package path

import (
	"slices"

	"kohaku/internal/api"
)

// Evidence is what a verdict is made of.
type Evidence struct {
	// Limits are the tests of the underlay on the overlay's way, with the most
	// flows: one for a hop, two through the Host. The slowest one is the limit.
	Limits []Test
	// Overlay is the test of the overlay with the most flows.
	Overlay Test
	// UnderlayRTT and OverlayRTT are medians of round trips in microseconds; 0: not
	// measured.
	UnderlayRTT, OverlayRTT float64
}

// Gather picks the evidence out of a report's tests.
func Gather(r *Report) Evidence {
	var e Evidence
	var direct Test
	for _, t := range r.Tests {
		whole := t.From == r.From && t.To == r.To
		switch {
		case t.Mode == api.PerfRoundTrip && t.Network == api.PerfUnderlay:
			e.UnderlayRTT = t.Figures.P50
		case t.Mode == api.PerfRoundTrip:
			e.OverlayRTT = t.Figures.P50
		case t.Network == api.PerfOverlay:
			if t.Flows >= e.Overlay.Flows {
				e.Overlay = t
			}
		case whole && t.Flows >= direct.Flows:
			direct = t
		case !whole:
			e.Limits = append(e.Limits, t)
		}
	}
	if len(e.Limits) == 0 && direct.Flows > 0 {
		e.Limits = []Test{direct}
	}
	return e
}

// Limit is the slowest of the Limits.
func (e Evidence) Limit() Test {
	if len(e.Limits) == 0 {
		return Test{}
	}
	return slices.MinFunc(e.Limits, func(a, b Test) int {
		switch {
		case a.Figures.Bits < b.Figures.Bits:
			return -1
		case a.Figures.Bits > b.Figures.Bits:
			return 1
		}
		return 0
	})
}

// Share is what the overlay gives of the underlay; 0 when that is not known.
func (e Evidence) Share() float64 {
	limit := e.Limit().Figures.Bits
	if limit <= 0 {
		return 0
	}
	return e.Overlay.Figures.Bits / limit
}

// LatencyOverhead is what the overlay adds to a round trip, in microseconds.
func (e Evidence) LatencyOverhead() float64 {
	if e.UnderlayRTT == 0 || e.OverlayRTT == 0 {
		return 0
	}
	return e.OverlayRTT - e.UnderlayRTT
}

// mtus gives the smallest and the largest MTU of the underlay's devices on the
// overlay's way, with who has them, and the smallest of the overlay's; 0 for what
// nobody has told.
func (e Evidence) mtus() (low, high place, overlay int) {
	for _, s := range e.Overlay.Seen {
		for _, d := range s.Underlay {
			if low.mtu == 0 || d.MTU < low.mtu {
				low = place{d.MTU, d.Name, s.Runner}
			}
			if d.MTU > high.mtu {
				high = place{d.MTU, d.Name, s.Runner}
			}
		}
		for _, d := range s.Tunnels {
			if overlay == 0 || d.MTU < overlay {
				overlay = d.MTU
			}
		}
	}
	return low, high, overlay
}

// place is a device's MTU and where it is.
type place struct {
	mtu            int
	device, runner string
}

// share reports whether two machines are namespaces of one kernel whose daemons may
// run on the same processors: what one of them burns, the other lacks.
func share(a, b api.PerfSeen) bool {
	if a.BootID == "" || a.BootID != b.BootID || a.Runner == b.Runner {
		return false
	}
	for _, x := range a.Cores {
		for _, y := range b.Cores {
			if x.CPU == y.CPU && x.Usable && y.Usable {
				return true
			}
		}
	}
	return false
}

// shares reports whether a machine shares its processors with another one of them.
func shares(s api.PerfSeen, all []api.PerfSeen) bool {
	return slices.ContainsFunc(all, func(o api.PerfSeen) bool { return share(s, o) })
}

// Thresholds for what counts as much. A share measured over seconds is good to a
// few percent.
const (
	hot      = 0.85 // of the time: as good as always
	full     = 0.90 // all processors together
	cold     = 0.50 // the others are idle beside a hot one
	awake    = 0.05 // less than that is no work, but waiting for the odd wake-up
	often    = 0.30 // share of periods in which a quota was used up
	starving = 0.50 // share of what a daemon wanted that it did not get
)

// wanted is the share of the time in which a thread ran or could have.
func wanted(t api.PerfThread) float64 { return t.Run + t.Wait }

// starved is the share of what the daemon's threads wanted that they did not get.
func starved(s api.PerfSeen) float64 {
	if s.Run+s.Wait == 0 {
		return 0
	}
	return s.Wait / (s.Run + s.Wait)
}

// hotThread is the daemon's busiest thread, if it never rested.
func hotThread(s api.PerfSeen) (api.PerfThread, bool) {
	if len(s.Threads) == 0 {
		return api.PerfThread{}, false
	}
	t := s.Threads[0]
	return t, wanted(t) >= hot && t.Run >= awake
}

// softCore is the processor that does the most packet work of the kernel, if it
// does nothing else.
func softCore(s api.PerfSeen) (api.PerfCore, bool) {
	for _, c := range s.Cores {
		if c.SoftIRQ >= hot {
			return c, true
		}
	}
	return api.PerfCore{}, false
}

// bound reports whether processors, not the network, set the pace on a machine.
func bound(s api.PerfSeen) bool {
	_, thread := hotThread(s)
	_, soft := softCore(s)
	return thread || soft || s.Throttled >= often
}

func anyBound(seen []api.PerfSeen) bool { return slices.ContainsFunc(seen, bound) }
