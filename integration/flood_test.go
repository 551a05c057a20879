// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
)

// The topology is that of cluster_test.go:
//
//	box1 === more small datagrams than the way can carry ===> box2

// floodTime is long enough to fill every queue on the way.
const floodTime = 3 * time.Second

// floodOther is how many of the lost frames may be the kernel's own: it asks for
// neighbours' addresses now and then, and those frames get lost like others.
const floodOther = 16

// TestFlood sends more than gets through. Here every datagram stays a frame of
// its own on the whole way, since neither end merges them, so what was sent,
// what arrived and what the counters say must agree.
func TestFlood(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{Profile: lab.Wire}, "[engine]", "offloads = { uso = false }")
	// What the kernel sends by itself would be counted, too.
	for _, h := range k.Hosts {
		check(t, h.Sysctl("net.ipv6.conf.all.disable_ipv6", "1"))
		check(t, h.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"))
	}
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	k.settle()
	before := k.counters()

	s := &soak{}
	for i, from := range k.boxes {
		to, addr := k.boxes[1-i], k.boxAddr(1-i)
		f := &flow{name: from.Name() + " to " + to.Name()}
		f.sink = closeAfter(t, open(t, to, func() (*traffic.UDPSink, error) { return traffic.ListenUDP(netip.AddrPortFrom(addr, 0)) }))
		f.sender = closeAfter(t, open(t, from, func() (*traffic.UDPSender, error) { return traffic.DialUDP(netip.Addr{}, f.sink.Addr()) }))
		s.flows = append(s.flows, f)
	}
	var wg sync.WaitGroup
	deadline := time.Now().Add(floodTime)
	for _, f := range s.flows {
		wg.Go(func() {
			for time.Now().Before(deadline) {
				for range 64 {
					if f.err = f.sender.Send(soakUDPSize); f.err != nil {
						return
					}
				}
			}
		})
	}
	wg.Wait()
	k.settle()
	for _, f := range s.flows {
		got := f.sink.Stats()
		t.Logf("UDP %s: %d sent, %d arrived, %d out of order", f.name, f.sender.Sent(), got.Received, got.Reordered)
		if f.err != nil || got.Received == 0 || got.Corrupt != 0 || got.Duplicated != 0 {
			t.Errorf("UDP %s: %v, %+v", f.name, f.err, got)
		}
	}
	if lost, counted := s.lost(), k.checkAccounts(before, s); counted < lost || counted > lost+floodOther {
		t.Errorf("%d datagrams were lost, the counters say %d", lost, counted)
	}
}
