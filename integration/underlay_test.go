// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"kohaku/internal/lab"
)

// What happens to a Runner's devices and to its underlay heals by itself, told by
// the kernel: heartbeats are too rare here to be the reason. Topology as in
// cluster_test.go.
func TestRunnerFaults(t *testing.T) {
	for _, family := range []string{"IPv4", "IPv6"} {
		t.Run(family, func(t *testing.T) { runnerFaults(t, family == "IPv6") })
	}
}

func runnerFaults(t *testing.T, v6 bool) {
	k := newCluster(t, lab.UnderlayConfig{})
	h := k.Hosts[theHost]
	k.rewrite(theHost, fmt.Sprintf("interval = %q", heartbeat), `interval = "1m"`)
	address := func(m int) netip.Addr { return k.Hosts[m].V4 }
	mtu := 1450
	if v6 {
		address = func(m int) netip.Addr { return k.Hosts[m].V6 }
		mtu = 1430
		k.rewrite(theHost, fmt.Sprintf("bind = \"0.0.0.0:%d\"", apiPort), fmt.Sprintf("bind = \"[::]:%d\"", apiPort))
		for _, m := range []int{runner1, runner2} {
			k.rewrite(m, fmt.Sprintf("host = \"%s:%d\"", h.V4, apiPort), fmt.Sprintf("host = \"[%s]:%d\"", h.V6, apiPort))
		}
	}
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	r1 := k.Hosts[runner1]
	if a := k.allocation("runner1"); a.MTU != mtu || a.PhysicalIP != address(runner1) {
		t.Errorf("allocation %+v", a)
	}
	bridge := k.bridge(runner1)
	now := netip.MustParseAddr("192.0.2.102")
	bits := 24
	if v6 {
		now, bits = netip.MustParseAddr("fd00:192:0:2::102"), 64
	}

	for _, c := range []struct {
		name  string
		fault func()
	}{
		{"TAP deleted", func() { check(t, r1.Delete("vxlan0")) }},
		{"TAP down", func() { check(t, r1.SetDown("vxlan0")) }},
		{"bridge deleted", func() { check(t, r1.Delete("kohaku-overlay")) }},
		{"bridge down", func() { check(t, r1.SetDown("kohaku-overlay")) }},
		{"underlay link down and up", func() {
			check(t, r1.SetDown("eth0"))
			check(t, k.pingUntil(k.boxes[0], k.boxAddr(1), false))
			check(t, r1.SetUp("eth0"))
			if v6 { // the kernel drops them with the link
				check(t, r1.AddAddr("eth0", netip.PrefixFrom(r1.V6, 64)))
			}
		}},
		{"underlay device deleted and made again", func() {
			check(t, r1.Delete("eth0"))
			check(t, k.pingUntil(k.boxes[0], k.boxAddr(1), false))
			_, _, err := k.Switch.Attach(r1.Node, "eth0")
			check(t, err)
			check(t, r1.AddAddr("eth0", netip.PrefixFrom(r1.V4, 24)))
			check(t, r1.AddAddr("eth0", netip.PrefixFrom(r1.V6, 64)))
		}},
		{"underlay address changed", func() {
			l := must(lab.Port{Node: r1.Node, Name: "eth0"}.Link())(t)
			for _, a := range must(r1.Handle().AddrList(l, netlink.FAMILY_ALL))(t) {
				if a.IP.Equal(address(runner1).AsSlice()) {
					check(t, r1.Handle().AddrDel(l, &a))
				}
			}
			check(t, r1.AddAddr("eth0", netip.PrefixFrom(now, bits)))
		}},
	} {
		start := time.Now()
		c.fault()
		// The Host's way to the container, then everybody's.
		check(t, k.pingUntil(h.Node, k.boxAddr(0), true))
		t.Logf("%s: traffic after %v", c.name, time.Since(start).Round(time.Millisecond))
		eventually(t, 20*time.Second, c.name, func() error {
			if _, err := (lab.Port{Node: r1.Node, Name: "kohaku-overlay"}).Link(); err != nil {
				return err
			}
			if is := k.bridge(runner1); is != bridge {
				return fmt.Errorf("the bridge is: %s; was: %s", is, bridge)
			}
			return nil
		})
		k.checkReach()
	}
	eventually(t, 20*time.Second, "the new address at the Host", func() error {
		if a := k.allocation("runner1"); a.PhysicalIP != now {
			return fmt.Errorf("the Host has %s", a.PhysicalIP)
		}
		return nil
	})
	log := k.daemons[runner1].log()
	if n := strings.Count(log, "the underlay address of this machine has changed"); n != 1 {
		t.Errorf("the change of address was logged %d times", n)
	}
}

// rewrite changes a line of a machine's settings.
func (k *cluster) rewrite(machine int, from, to string) {
	k.t.Helper()
	text := string(must(os.ReadFile(k.config[machine]))(k.t))
	if !strings.Contains(text, from) {
		k.t.Fatalf("no %q in\n%s", from, text)
	}
	check(k.t, os.WriteFile(k.config[machine], []byte(strings.Replace(text, from, to, 1)), 0o644))
}
