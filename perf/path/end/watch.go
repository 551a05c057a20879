// SPDX-License-Identifier: Apache-2.0

package end

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/engine"
	"kohaku/internal/api"
	"kohaku/internal/link"
	"kohaku/internal/link/ethtool"
)

// mark is what a machine has counted until one moment.
type mark struct {
	at      time.Time
	cores   map[int]coreTimes
	usable  *unix.CPUSet // nil: all
	threads map[int]threadTimes
	quota   quotaCounts
	udp     udpErrors
	engine  engine.Stats
	drops   map[string]uint64 // by device
	missing []string
}

// note keeps why something could not be looked at.
func (m *mark) note(err error) {
	if err != nil {
		m.missing = append(m.missing, api.FitText(err.Error()))
	}
}

// takeMark looks at everything that counts. What cannot be seen is left out.
func takeMark(devices []string, stats func() engine.Stats) mark {
	m := mark{at: time.Now(), drops: make(map[string]uint64)}
	var err error
	m.cores, err = readCores()
	m.note(err)
	var usable unix.CPUSet
	if unix.SchedGetaffinity(0, &usable) == nil {
		m.usable = &usable
	}
	m.threads, err = readThreads()
	m.note(err)
	m.udp, err = readUDPErrors()
	m.note(err)
	m.quota = readQuota()
	m.engine = stats()
	for _, d := range devices {
		if q, err := (link.Kernel{}).Queueing(d); err == nil {
			m.drops[d] = q.Drops
		}
	}
	return m
}

// Watch is dataplane.Meter's.
func (Meter) Watch(t api.PerfTask, stats func() engine.Stats) (stop func() api.PerfSeen) {
	var underlay []string
	var missing []string
	for _, p := range t.Peers {
		path, err := (link.Kernel{}).PathTo(p)
		if err != nil {
			missing = append(missing, api.FitText(err.Error()))
		} else if !slices.Contains(underlay, path.Device) {
			underlay = append(underlay, path.Device)
		}
	}
	devices := slices.Concat(underlay, t.Tunnels)
	before := takeMark(devices, stats)
	return func() api.PerfSeen {
		after := takeMark(devices, stats)
		s := between(before, after)
		s.BootID = bootID()
		missing = append(missing, after.missing...)
		describe := func(names []string) []api.PerfDevice {
			all := []api.PerfDevice{}
			for _, name := range names {
				d, err := device(name)
				if err != nil {
					missing = append(missing, api.FitText(err.Error()))
					continue
				}
				d.Drops = since(before.drops[name], after.drops[name])
				all = append(all, d)
			}
			return all
		}
		s.Underlay, s.Tunnels = describe(underlay), describe(t.Tunnels)
		s.Missing = missing[:min(len(missing), api.MaxPerfMissing)]
		return s
	}
}

// between gives what happened from one mark to the next.
func between(a, b mark) api.PerfSeen {
	seconds := b.at.Sub(a.at).Seconds()
	s := api.PerfSeen{
		Seconds: seconds, CPUs: len(b.cores), Cores: []api.PerfCore{}, Threads: []api.PerfThread{},
		Throttled: a.quota.throttled(b.quota), Quota: b.quota.processors,
		UDPRcvbufErrors: since(a.udp.receive, b.udp.receive), UDPSndbufErrors: since(a.udp.send, b.udp.send),
		Engine: engineBetween(a.engine, b.engine, seconds),
	}
	for cpu, now := range b.cores {
		c := a.cores[cpu].until(now)
		c.CPU, c.Usable = cpu, b.usable == nil || b.usable.IsSet(cpu)
		s.Cores = append(s.Cores, c)
		if c.Usable {
			s.Usable++
			s.Busy += c.Busy
		}
	}
	s.Busy /= float64(max(s.Usable, 1))
	slices.SortFunc(s.Cores, func(x, y api.PerfCore) int {
		return cmp.Or(cmp.Compare(y.Busy, x.Busy), cmp.Compare(x.CPU, y.CPU))
	})
	s.Cores = s.Cores[:min(len(s.Cores), api.MaxPerfCores)]
	for tid, now := range b.threads {
		was := a.threads[tid] // a new thread has begun at zero
		t := api.PerfThread{TID: tid, Run: share(since(was.run, now.run), seconds), Wait: share(since(was.wait, now.wait), seconds)}
		s.Run += t.Run
		s.Wait += t.Wait
		s.Threads = append(s.Threads, t)
	}
	slices.SortFunc(s.Threads, func(x, y api.PerfThread) int {
		return cmp.Or(cmp.Compare(y.Run+y.Wait, x.Run+x.Wait), cmp.Compare(x.TID, y.TID))
	})
	s.Threads = s.Threads[:min(len(s.Threads), api.MaxPerfThreads)]
	return s
}

func engineBetween(a, b engine.Stats, seconds float64) api.PerfEngine {
	e := api.PerfEngine{
		Workers: b.Workers, UDPGSO: b.UDPGSO, UDPGRO: b.UDPGRO,
		Sent: since(a.Stages.Sent, b.Stages.Sent), Received: since(a.Stages.Received, b.Stages.Received),
		Sends: since(a.Stages.Sends, b.Stages.Sends), Receives: since(a.Stages.Receives, b.Stages.Receives),
		SendsBlocked: since(a.Stages.SendsBlocked, b.Stages.SendsBlocked),
		Blocked:      share(since(a.Stages.BlockedTime, b.Stages.BlockedTime), seconds),
	}
	for reason, n := range b.Drops {
		if more := since(a.Drops[reason], n); more > 0 {
			if e.Drops == nil {
				e.Drops = make(map[string]uint64)
			}
			e.Drops[reason] = more
		}
	}
	return e
}

// since is what a counter has counted; one that was set back counts from zero.
func since(before, after uint64) uint64 {
	if after < before {
		return after
	}
	return after - before
}

// share gives nanoseconds as a share of the time.
func share(ns uint64, seconds float64) float64 {
	if seconds <= 0 {
		return 0
	}
	return float64(ns) / 1e9 / seconds
}

// device describes a network device.
func device(name string) (api.PerfDevice, error) {
	info, err := (link.Kernel{}).Device(name)
	if err != nil {
		return api.PerfDevice{}, err
	}
	d := api.PerfDevice{Name: name, MTU: info.MTU}
	if q, err := (link.Kernel{}).Queueing(name); err == nil {
		d.Qdisc, d.Rate = q.Qdisc, q.Rate
	}
	e, err := ethtool.Open(name)
	if err != nil {
		return d, fmt.Errorf("read the offloads of %s: %w", name, err)
	}
	defer e.Close()
	features, err := e.Features()
	if err != nil {
		return d, fmt.Errorf("read the offloads of %s: %w", name, err)
	}
	d.Off = switchedOff(features)
	if info.Type == "veth" {
		// Super-frames cross it whole, so it merges nothing unless somebody asks
		// for it (drivers/net/veth.c): off is as it should be.
		d.Off = slices.DeleteFunc(d.Off, func(name string) bool { return name == "gro" })
	}
	return d, nil
}

// offloads are those that the data plane and TCP beside it live by, by their names
// in ethtool -K and the kernel's names that they stand for.
var offloads = []struct {
	name string
	is   func(kernel string) bool
}{
	{"tx", func(k string) bool { return strings.HasPrefix(k, "tx-checksum-ip") }},
	{"rx", func(k string) bool { return k == "rx-checksum" }},
	{"sg", func(k string) bool { return k == "tx-scatter-gather" }},
	{"tso", func(k string) bool { return k == "tx-tcp-segmentation" }},
	{"gso", func(k string) bool { return k == "tx-generic-segmentation" }},
	{"gro", func(k string) bool { return k == "rx-gro" }},
	{"tx-udp-segmentation", func(k string) bool { return k == "tx-udp-segmentation" }},
}

// switchedOff lists the offloads that the device could do and does not.
func switchedOff(features []ethtool.Feature) []string {
	var off []string
	for _, o := range offloads {
		available, active := false, false
		for _, f := range features {
			if o.is(f.Name) {
				available = available || f.Available
				active = active || f.Active
			}
		}
		if available && !active {
			off = append(off, o.name)
		}
	}
	return off
}
