// SPDX-License-Identifier: Apache-2.0

package path

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"kohaku/internal/api"
)

// offloadOff looks for offloads that the underlay's devices could do and do not.
func offloadOff(e Evidence) *finding {
	if !roomLeft(e) {
		return nil
	}
	var where, hint []string
	seen := map[string]bool{}
	for _, s := range e.Overlay.Seen {
		for _, d := range s.Underlay {
			if len(d.Off) == 0 {
				continue
			}
			names := strings.Join(d.Off, ", ")
			verb := "is"
			if len(d.Off) > 1 {
				verb = "are"
			}
			line := fmt.Sprintf("%s %s off on %s of %s", names, verb, d.Name, Name(s.Runner))
			if !seen[line] {
				seen[line] = true
				where = append(where, line)
				hint = append(hint, fmt.Sprintf("there: ethtool -K %s %s on", d.Name, strings.Join(d.Off, " on ")))
			}
		}
	}
	if len(where) == 0 {
		return nil
	}
	return &finding{Offload, "offload " + strings.Join(where, ", and "), hint}
}

// oneQueue looks for one processor that works while the others of its machine rest,
// though there are flows to share out. A thread of the load generator may be such a
// one too, but then it was one on the underlay as well, and no slower there.
func oneQueue(e Evidence) *finding {
	if e.Overlay.Flows < 2 || e.Share() >= wellBelow {
		return nil
	}
	for _, s := range e.Overlay.Seen {
		if s.CPUs < 2 || len(s.Cores) < 2 {
			continue
		}
		top, others := s.Cores[0], 0.0
		for _, c := range s.Cores[1:] { // those that are not listed are idler than these
			others += c.Busy / float64(s.CPUs-1)
		}
		if others >= cold {
			continue
		}
		sentence := fmt.Sprintf("one queue carries everything on %s: ", Name(s.Runner))
		if top.SoftIRQ >= hot {
			return &finding{OneQueue, sentence + fmt.Sprintf("processor %d does nothing but receive packets, the other %d are busy for %s",
				top.CPU, s.CPUs-1, percent(others)), []string{fmt.Sprintf("processor %d: %s of its time in soft interrupts; "+
				"spread them with the device's queues (ethtool -L) or RPS", top.CPU, percent(top.SoftIRQ))}}
		}
		thread, is := hotThread(s)
		if is && thread.Run >= hot && (len(s.Threads) == 1 || wanted(s.Threads[1]) < cold) && s.Engine.Workers > 0 {
			return &finding{OneQueue, sentence + fmt.Sprintf("one thread of the daemon is busy for %s of the time, the next one for %s",
				percent(thread.Run), percent(next(s.Threads))),
				[]string{fmt.Sprintf("threads that are there to carry packets: %d; processors: %d, on average busy for %s", s.Engine.Workers, s.CPUs, percent(s.Busy))}}
		}
	}
	return nil
}

// oneFlow looks for the thread that carries the one flow that there is.
func oneFlow(e Evidence) *finding {
	if e.Overlay.Flows != 1 || e.Share() >= wellBelow {
		return nil
	}
	for _, s := range e.Overlay.Seen {
		if t, is := hotThread(s); is && t.Run >= hot {
			return &finding{OneFlow, fmt.Sprintf("one flow is as fast as one processor of %s carries it: a thread of the daemon is busy for %s of the time",
				Name(s.Runner), percent(t.Run)), []string{"several flows can use several processors: -P 4 shows how much"}}
		}
	}
	return nil
}

func next(threads []api.PerfThread) float64 {
	if len(threads) < 2 {
		return 0
	}
	return threads[1].Run
}

func hostCPU(e Evidence) *finding {
	for _, s := range e.Overlay.Seen {
		if s.Runner == "" {
			return cpu(e, s, HostCPU, "the Host's CPU is saturated")
		}
	}
	return nil
}

func runnerCPU(e Evidence) *finding {
	for _, s := range e.Overlay.Seen {
		if s.Runner != "" {
			if f := cpu(e, s, RunnerCPU, "the CPU of "+s.Runner+" is saturated"); f != nil {
				return f
			}
		}
	}
	return nil
}

// cpu looks for a machine that lacks processor time. Of machines that share their
// processors none can be told to be the one.
func cpu(e Evidence, s api.PerfSeen, cause Cause, sentence string) *finding {
	_, never := hotThread(s)
	lacks := starved(s)
	evidence := []string{fmt.Sprintf("the daemon there got %.2f processors and waited for %.2f more, %s of what it wanted", s.Run, s.Wait, percent(lacks))}
	if s.Throttled >= often {
		evidence = append(evidence, fmt.Sprintf("its control group used up its quota of %.2f processors in %s of the periods", s.Quota, percent(s.Throttled)))
		return &finding{cause, sentence + fmt.Sprintf(": its control group allows %.2f processors, and they are used up", s.Quota), evidence}
	}
	evidence = append(evidence, load(s))
	if shares(s, e.Overlay.Seen) {
		return nil
	}
	switch {
	case never && lacks >= starving:
		return &finding{cause, sentence + fmt.Sprintf(": its daemon waits for a processor for %s of the time in which it could work", percent(lacks)), evidence}
	case s.Busy >= full:
		return &finding{cause, sentence + fmt.Sprintf(": %s busy for %s of the time", processors(s), percent(s.Busy)), evidence}
	}
	return nil
}

// processors names those that a daemon may use.
func processors(s api.PerfSeen) string {
	switch {
	case s.Usable == s.CPUs:
		return fmt.Sprintf("its %d processors are", s.CPUs)
	case s.Usable == 1:
		return fmt.Sprintf("the one of its %d processors that the daemon may use is", s.CPUs)
	}
	return fmt.Sprintf("the %d of its %d processors that the daemon may use are", s.Usable, s.CPUs)
}

// load tells of all processors of a machine.
func load(s api.PerfSeen) string {
	soft, steal := 0.0, 0.0
	for _, c := range s.Cores {
		soft += c.SoftIRQ / float64(len(s.Cores))
		steal += c.Steal / float64(len(s.Cores))
	}
	line := fmt.Sprintf("%s busy for %s; of all %d, soft interrupts took %s", processors(s), percent(s.Busy), s.CPUs, percent(soft))
	if steal >= awake {
		line += fmt.Sprintf(", and the hypervisor kept %s for others", percent(steal))
	}
	return line
}

func sharedCPU(e Evidence) *finding {
	for _, s := range e.Overlay.Seen {
		if s.Busy >= full && shares(s, e.Overlay.Seen) {
			return &finding{SharedCPU, fmt.Sprintf("the %d processors that machines of this path share are saturated, for %s of the time", s.Usable, percent(s.Busy)),
				[]string{"the machines are namespaces of one kernel: the figures say what this one machine can do, not what a cluster would"}}
		}
	}
	return nil
}

// losses looks for datagrams that a machine received and lost, or could not send.
func losses(e Evidence) *finding {
	if e.Share() >= wellBelow {
		return nil
	}
	for _, s := range e.Overlay.Seen {
		all := s.Engine.Received + s.UDPRcvbufErrors
		if all > 0 && float64(s.UDPRcvbufErrors) >= muchLoss*float64(all) {
			return &finding{Loss, fmt.Sprintf("%s loses packets: its UDP sockets were full for %d of %d datagrams", Name(s.Runner), s.UDPRcvbufErrors, all), nil}
		}
		for _, reason := range slices.Sorted(maps.Keys(s.Engine.Drops)) {
			n := s.Engine.Drops[reason]
			if float64(n) >= muchLoss*float64(s.Engine.Received+s.Engine.Sent) {
				return &finding{Loss, fmt.Sprintf("%s loses packets: the data plane dropped %d (%s) of %d", Name(s.Runner), n, reason, s.Engine.Received+s.Engine.Sent), nil}
			}
		}
		for _, d := range append(s.Underlay[:len(s.Underlay):len(s.Underlay)], s.Tunnels...) {
			if float64(d.Drops) >= muchLoss*float64(s.Engine.Received+s.Engine.Sent) && d.Drops > 0 {
				return &finding{Loss, fmt.Sprintf("%s loses packets: %s dropped %d", Name(s.Runner), d.Name, d.Drops), nil}
			}
		}
	}
	return nil
}
