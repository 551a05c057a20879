// SPDX-License-Identifier: Apache-2.0

package path

import (
	"fmt"
	"slices"
)

// Cause names what a verdict blames.
type Cause string

// The causes, in the order in which they are looked for: the first that holds is
// the verdict, the others stand beside it.
//
// A limit that the overlay cannot pass comes first. Then what a person can change
// with one command, and what costs processor time for every byte: offloads are
// worth a factor of two and more, the MTU less, as super-frames make up for most of
// it. They come before the processors, because a busy processor is what they look
// like from outside. One busy processor among idle ones comes before all of them
// being busy, which it excludes; with a single flow that is as it must be. The Host comes before the Runners, as all traffic
// passes there, and both before processors that all machines share, which is only
// said when nobody in particular can be blamed. Losses come after the processors,
// since a machine that is too slow loses packets too. Latency alone comes last.
const (
	Underlay  Cause = "underlay"
	Offload   Cause = "offload"
	MTU       Cause = "mtu"
	OneQueue  Cause = "one-queue"
	OneFlow   Cause = "one-flow"
	HostCPU   Cause = "host-cpu"
	RunnerCPU Cause = "runner-cpu"
	SharedCPU Cause = "shared-cpu"
	Loss      Cause = "loss"
	Latency   Cause = "latency"
	Nothing   Cause = "nothing"
)

// Verdict is the answer.
type Verdict struct {
	Cause    Cause    `json:"cause"`
	Sentence string   `json:"sentence"`
	Evidence []string `json:"evidence"` // as lines for a person
	Also     []string `json:"also"`     // sentences of what else was found
}

const (
	// close to the underlay is what the overlay can be at best: its headers alone
	// cost 3.5 % at an MTU of 1500, and short tests differ by more.
	nearLimit = 0.85
	// wellBelow is what makes a setting worth naming on its own.
	wellBelow = 0.90
	// encapsulation is IPv4, UDP, VXLAN and the inner Ethernet header, in bytes.
	encapsulation = 50
	// wastedMTU is the share of the underlay's MTU from which up nobody complains.
	wastedMTU = 0.90
	// ExpectedLatency is what the overlay should add to a round trip at most, in
	// microseconds.
	ExpectedLatency = 1000
	// muchLoss is the share of datagrams.
	muchLoss = 0.001
)

// finding is a cause that holds.
type finding struct {
	cause    Cause
	sentence string
	evidence []string
}

// Judge says what slows the overlay. It is a function of the evidence alone.
func Judge(e Evidence) Verdict {
	looks := []func(Evidence) *finding{
		underlayLimit, offloadOff, wrongMTU, oneQueue, oneFlow, hostCPU, runnerCPU, sharedCPU, losses, latency,
	}
	var found []*finding
	for _, look := range looks {
		if f := look(e); f != nil {
			found = append(found, f)
		}
	}
	if len(found) == 0 {
		found = append(found, &finding{Nothing, "nothing stands out: the overlay gives " + percent(e.Share()) + " of the underlay", nil})
	}
	v := Verdict{Cause: found[0].cause, Sentence: found[0].sentence, Evidence: found[0].evidence, Also: []string{}}
	v.Evidence = append(slices.Clone(v.Evidence), comparison(e)...)
	for _, f := range found[1:] {
		v.Also = append(v.Also, f.sentence)
	}
	return v
}

// comparison is the evidence that every verdict rests on.
func comparison(e Evidence) []string {
	limit := e.Limit()
	lines := []string{fmt.Sprintf("with %s the overlay gives %s, the underlay %s (%s to %s)",
		flows(e.Overlay.Flows), rate(e.Overlay.Figures.Bits), rate(limit.Figures.Bits), Name(limit.From), Name(limit.To))}
	if e.OverlayRTT > 0 && e.UnderlayRTT > 0 {
		lines = append(lines, fmt.Sprintf("a round trip takes %s, %s on the underlay: %s more, expected is less than %s",
			micros(e.OverlayRTT), micros(e.UnderlayRTT), micros(e.LatencyOverhead()), micros(ExpectedLatency)))
	}
	return lines
}

// roomLeft reports whether the overlay could be faster if something were changed:
// it is well below the underlay, or processors set the pace.
func roomLeft(e Evidence) bool {
	return e.Share() < wellBelow || anyBound(e.Overlay.Seen)
}

func underlayLimit(e Evidence) *finding {
	limit := e.Limit()
	// A processor that sets the pace without any tunnel is no limit of the wire.
	if limit.Figures.Bits <= 0 || e.Share() < nearLimit || anyBound(limit.Seen) {
		return nil
	}
	f := &finding{cause: Underlay, sentence: fmt.Sprintf("the underlay itself gives only %s from %s to %s, and the overlay %s of that",
		rate(limit.Figures.Bits), Name(limit.From), Name(limit.To), percent(e.Share()))}
	for _, s := range limit.Seen {
		if len(s.Threads) > 0 && (s.Runner == limit.From || s.Runner == limit.To) {
			f.evidence = append(f.evidence, fmt.Sprintf("on the underlay the busiest thread of %s wanted a processor for %s of the time",
				Name(s.Runner), percent(wanted(s.Threads[0]))))
		}
	}
	for _, s := range limit.Seen {
		for _, d := range s.Underlay {
			if d.Rate > 0 {
				f.evidence = append(f.evidence, fmt.Sprintf("%s of %s has the queueing discipline %s with %s", d.Name, Name(s.Runner), d.Qdisc, rate(float64(d.Rate))))
			}
		}
	}
	return f
}

func wrongMTU(e Evidence) *finding {
	low, high, overlay := e.mtus()
	switch {
	case low.mtu == 0 || overlay == 0 || !roomLeft(e):
		return nil
	case overlay+encapsulation > low.mtu:
		return &finding{MTU, fmt.Sprintf("MTU %d is too large for the underlay's %d: outer packets are fragmented or lost", overlay, low.mtu),
			[]string{fmt.Sprintf("%s of %s has an MTU of %d; set mtu = 0 in host.toml, or raise it", low.device, Name(low.runner), low.mtu)}}
	case float64(low.mtu) < wastedMTU*float64(high.mtu):
		return &finding{MTU, fmt.Sprintf("the underlay's MTU differs on the way: %d on %s of %s, %d on %s of %s",
			low.mtu, low.device, Name(low.runner), high.mtu, high.device, Name(high.runner)),
			[]string{fmt.Sprintf("the overlay has an MTU of %d, as the smallest one decides", overlay)}}
	case float64(overlay+encapsulation) < wastedMTU*float64(low.mtu):
		return &finding{MTU, fmt.Sprintf("MTU %d on a %d underlay: %.1f times as many packets as need be",
			overlay, low.mtu, float64(low.mtu-encapsulation)/float64(overlay)),
			[]string{fmt.Sprintf("mtu = 0 in host.toml would make it %d", low.mtu-encapsulation)}}
	}
	return nil
}

func latency(e Evidence) *finding {
	more := e.LatencyOverhead()
	if more < ExpectedLatency {
		return nil
	}
	return &finding{Latency, fmt.Sprintf("the overlay adds %s to a round trip, expected is less than %s", micros(more), micros(ExpectedLatency)), nil}
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

func flows(n int) string {
	if n == 1 {
		return "1 flow"
	}
	return fmt.Sprintf("%d flows", n)
}

// rate prints bit/s with three digits.
func rate(bits float64) string {
	for _, u := range []struct {
		size float64
		name string
	}{{1e9, "Gbit/s"}, {1e6, "Mbit/s"}, {1e3, "kbit/s"}} {
		if bits >= u.size {
			digits := 2
			if v := bits / u.size; v >= 100 {
				digits = 0
			} else if v >= 10 {
				digits = 1
			}
			return fmt.Sprintf("%.*f %s", digits, bits/u.size, u.name)
		}
	}
	return fmt.Sprintf("%.0f bit/s", bits)
}

// micros prints microseconds.
func micros(us float64) string {
	if us >= 1000 || us <= -1000 {
		return fmt.Sprintf("%.2f ms", us/1000)
	}
	return fmt.Sprintf("%.0f us", us)
}
