// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"kohaku/encap"
	"kohaku/internal/api"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"

	"github.com/vishvananda/netlink"
)

// A Host whose tunnel devices are TUNs, with Runners that know nothing of it. The
// topology is that of cluster_test.go. The kind is changed back and forth, over a
// restart in order and over a crash; the Runners keep their ids.
func TestHostTUN(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	plain := must(os.ReadFile(k.config[theHost]))(t)
	use := func(kind string) {
		check(t, os.WriteFile(k.config[theHost], fmt.Appendf(bytes.Clone(plain), "\n[engine]\ndevice = %q\nttl = 33\n", kind), 0o644))
	}
	devices := func(want netlink.TuntapMode) {
		t.Helper()
		for _, name := range []string{"vxkr1", "vxkr2"} {
			l := must((lab.Port{Node: k.Hosts[theHost].Node, Name: name}).Link())(t)
			if tt, ok := l.(*netlink.Tuntap); !ok || tt.Mode != want {
				t.Errorf("%s is %+v", name, l)
			}
		}
	}
	carries := func() {
		t.Helper()
		k.checkReach()
		quietBulk(t, [][2]node{
			{{k.boxes[0], k.boxAddr(0)}, {k.boxes[1], k.boxAddr(1)}}, {{k.boxes[1], k.boxAddr(1)}, {k.boxes[0], k.boxAddr(0)}},
		}, 8<<20)
	}
	use("tun")
	k.startAll()
	k.attachBoxes()
	devices(netlink.TUNTAP_MODE_TUN)
	carries()

	k.kill(theHost)
	k.start(theHost)
	devices(netlink.TUNTAP_MODE_TUN)
	carries()

	k.stop(theHost)
	use("tap")
	k.start(theHost)
	k.waitActive("runner1", "runner2")
	devices(netlink.TUNTAP_MODE_TAP)
	carries()

	k.kill(theHost)
	use("tun")
	k.start(theHost)
	k.waitActive("runner1", "runner2")
	devices(netlink.TUNTAP_MODE_TUN)
	carries()

	// TTL is the settings'.
	c := must(k.Hosts[runner1].Port.Capture(func(p lab.Packet) bool {
		o, ok := parseOuter(p.Data)
		return ok && !p.Outgoing && o.dport == encap.DefaultPort
	}))(t)
	k.checkReach()
	for _, p := range must(c.Stop())(t) {
		if o, _ := parseOuter(p.Data); o.ttl != 33 {
			t.Fatalf("TTL %d from the Host", o.ttl)
		}
	}
	k.dropsInStatus()
}

// dropsInStatus sends the Host what it drops, and finds it by name in what `kohaku
// status --json` prints.
func (k *cluster) dropsInStatus() {
	k.t.Helper()
	good := innerUDP(proberMAC, 0, 1, 30) // its source is in no Runner's subnet
	r := &rig{t: k.t, prober: k.Hosts[outside]}
	host := &rigEnd{UnderlayHost: k.Hosts[theHost]}
	r.send(host, probe{data: vxlanDatagram(999, good)})
	r.send(host, probe{data: []byte{8, 0}})
	r.send(host, probe{data: vxlanDatagram(101, good)})
	// As the Runner's machine, but not by its VXLAN.
	spoof := &rig{t: k.t, prober: k.Hosts[runner1]}
	spoof.send(host, probe{data: vxlanDatagram(101, good)})
	// Nobody has this address: the TUN asks, in vain.
	ask := open(k.t, k.Hosts[theHost].Node, func() (*traffic.Pinger, error) {
		return traffic.NewPinger(netip.Addr{}, netip.MustParseAddr("10.1.77.77"))
	})
	ctx, cancel := context.WithTimeout(k.t.Context(), 100*time.Millisecond)
	defer cancel()
	_, _ = ask.Ping(ctx, 56) // there is no answer
	ask.Close()
	eventually(k.t, 20*time.Second, "the drops show", func() error {
		cmd := k.Hosts[theHost].Command(k.t.Context(), must(kohakuBinary())(k.t), "status", "--json", "--host", fmt.Sprintf("127.0.0.1:%d", apiPort))
		out, err := cmd.Output()
		if err != nil {
			return err
		}
		var s api.Status
		if err := json.Unmarshal(out, &s); err != nil {
			return err
		}
		all := s.Stats.Drops
		for reason, n := range s.Allocations[0].Counters.Drops {
			all[reason] += n
		}
		for _, reason := range []string{"unknown_vni", "header_short", "wrong_peer", "spoofed_source", "device_unresolved"} {
			if all[reason] == 0 {
				return fmt.Errorf("no %s in %v", reason, all)
			}
		}
		return nil
	})
}
