// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/lab"
)

// Where frames can be lost on the way through the topology of cluster_test.go,
// and who counts it:
//
//	container -- veth -- bridge -- TAP | engine -- socket -- veth -- switch -- socket -- engine | TAP -- routing
//	   (1)       (1)      (1)      (1)    (2)       (1)      (1)     (1)        (3)       (2)     (2)      (1)
//
//	(1) kernel: interface and IP statistics of the machine
//	(2) engine: drops by reason, per tunnel and of the engine
//	(3) kernel: UDP statistics of the machine (receive buffer full)

// counterSet is named counters of one place.
type counterSet map[string]uint64

// since returns what has been counted since an earlier look, by name; zero ones
// are left out.
func (c counterSet) since(before counterSet) counterSet {
	out := counterSet{}
	for name, n := range c {
		if d := n - before[name]; d != 0 {
			out[name] = d
		}
	}
	return out
}

func (c counterSet) sum() uint64 {
	var n uint64
	for _, v := range c {
		n += v
	}
	return n
}

func (c counterSet) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&b, " %s=%d", name, c[name])
	}
	return "[" + strings.TrimSpace(b.String()) + "]"
}

// accounts is a look at all counters of loss, by machine.
type accounts struct {
	kernel  map[string]counterSet // (1) and (3)
	tunnels []tunnelCounters
	engine  counterSet // the Host's, of no tunnel
}

// tunnelCounters is one tunnel seen from both ends.
type tunnelCounters struct {
	runner, host struct {
		api.Counters
		name string
	}
}

func (k *cluster) counters() accounts {
	k.t.Helper()
	a := accounts{kernel: map[string]counterSet{}, tunnels: k.tunnelCounters(), engine: counterSet{}}
	for name, n := range must(k.status())(k.t).Stats.Drops {
		a.engine[name] = n
	}
	nodes := []*lab.Node{k.Switch.Node, k.boxes[0], k.boxes[1]}
	for _, h := range k.Hosts {
		nodes = append(nodes, h.Node)
	}
	for _, n := range nodes {
		a.kernel[n.Name()] = k.kernelCounters(n)
	}
	return a
}

// tunnelCounters asks the Host, which knows the Runners' counters from their
// heartbeats.
func (k *cluster) tunnelCounters() (all []tunnelCounters) {
	k.t.Helper()
	eventually(k.t, 20*time.Second, "counters of both ends", func() error {
		all = nil
		s, err := k.status()
		if err != nil {
			return err
		}
		for _, a := range s.Allocations {
			if a.Counters == nil || a.RunnerCounters == nil {
				return fmt.Errorf("none yet for %s", a.RunnerName)
			}
			var c tunnelCounters
			c.host.name, c.host.Counters = "host "+a.VXLANDevice, *a.Counters
			c.runner.name, c.runner.Counters = a.RunnerName+" vxlan0", *a.RunnerCounters
			all = append(all, c)
		}
		return nil
	})
	return all
}

// kernelCounters are the counters of loss that the kernel keeps for a machine.
func (k *cluster) kernelCounters(n *lab.Node) counterSet {
	k.t.Helper()
	c := counterSet{}
	for _, l := range must(n.Handle().LinkList())(k.t) {
		s := l.Attrs().Statistics
		if s == nil {
			continue
		}
		for name, v := range map[string]uint64{
			"rx_dropped": s.RxDropped, "tx_dropped": s.TxDropped, "rx_errors": s.RxErrors, "tx_errors": s.TxErrors,
		} {
			c[l.Attrs().Name+" "+name] = v
		}
		for _, q := range must(n.Handle().QdiscList(l))(k.t) {
			if st := q.Attrs().Statistics; st != nil && st.Queue != nil {
				c[l.Attrs().Name+" qdisc_"+q.Type()+"_dropped"] += uint64(st.Queue.Drops)
			}
		}
	}
	check(k.t, n.Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		return snmp(string(b), c)
	}))
	return c
}

// snmpLoss are the protocols' counters of packets that did not get on.
var snmpLoss = []string{
	"Ip InDiscards", "Ip OutDiscards", "Ip OutNoRoutes", "Ip InHdrErrors", "Ip ReasmFails", "Ip FragFails",
	"Udp RcvbufErrors", "Udp SndbufErrors", "Udp InCsumErrors", "Udp MemErrors", "Udp NoPorts",
}

// snmp reads /proc/net/snmp: a line of names and a line of values for each
// protocol.
func snmp(text string, c counterSet) error {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) != len(values) {
			return fmt.Errorf("/proc/net/snmp: %q does not fit %q", lines[i+1], lines[i])
		}
		proto := strings.TrimSuffix(names[0], ":")
		for j := 1; j < len(names); j++ {
			name := proto + " " + names[j]
			if !slices.Contains(snmpLoss, name) {
				continue
			}
			v, err := strconv.ParseUint(values[j], 10, 64)
			if err != nil {
				return fmt.Errorf("/proc/net/snmp: %s: %w", name, err)
			}
			c[name] = v
		}
	}
	return nil
}

// checkAccounts compares what was sent with what arrived, at two levels.
//
// Between two engines, frame by frame: what one end of a tunnel sent and the
// other did not take in stands in a counter of the receiving machine's kernel or
// engine, or of the cable.
//
// Between the containers: no datagram or ping is lost without a counter having
// counted. There a count can stand for several, because the kernel counts a
// dropped super-frame once, so the numbers are compared only that way round.
//
// It returns the sum of all counters of loss.
func (k *cluster) checkAccounts(before accounts, s *soak) (counted uint64) {
	k.t.Helper()
	after := k.counters()
	cable := map[string]uint64{}
	for name, c := range after.kernel {
		lost := c.since(before.kernel[name])
		k.t.Logf("%s, kernel: lost %v", name, lost)
		counted += lost.sum()
		for what, n := range lost {
			if strings.HasPrefix(what, "Udp Rcvbuf") || strings.HasPrefix(what, lab.UnderlayDevice+" ") || name == k.Switch.Node.Name() {
				cable[name] += n
			}
		}
	}
	engine := after.engine.since(before.engine)
	k.t.Logf("host, engine: lost %v", engine)
	counted += engine.sum()

	missing := map[string]int64{}
	explained := map[string]int64{}
	for i, c := range after.tunnels {
		b := before.tunnels[i]
		for _, d := range []struct {
			from, to         string
			sent, taken      uint64
			fromWas, toWas   uint64
			toDrops, wasDrop counterSet
			machine          string
		}{
			{c.runner.name, c.host.name, c.runner.TxFrames, c.host.RxFrames, b.runner.TxFrames, b.host.RxFrames, c.host.Drops, b.host.Drops, k.Hosts[theHost].Name()},
			{c.host.name, c.runner.name, c.host.TxFrames, c.runner.RxFrames, b.host.TxFrames, b.runner.RxFrames, c.runner.Drops, b.runner.Drops, strings.Fields(c.runner.name)[0]},
		} {
			sent, taken, drops := d.sent-d.fromWas, d.taken-d.toWas, d.toDrops.since(d.wasDrop)
			k.t.Logf("%s sent %d frames, %s took %d, difference %d; its engine dropped %v", d.from, sent, d.to, taken, int64(sent-taken), drops)
			counted += drops.sum()
			missing[d.machine] += int64(sent - taken)
			explained[d.machine] += int64(drops.sum())
		}
	}
	for machine, n := range missing {
		if n < 0 || n > explained[machine]+int64(cable[machine]+cable[k.Switch.Node.Name()]+engine.sum()) {
			k.t.Errorf("%d frames sent to %s by engines were not taken in by its engine; counters explain %d of the engine and %d of the cable",
				n, machine, explained[machine], cable[machine])
		}
	}
	if lost := s.lost(); lost > 0 && counted == 0 {
		k.t.Errorf("%d datagrams and pings were lost, and no counter has counted", lost)
	}
	return counted
}
