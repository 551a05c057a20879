// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"bytes"
	"net/netip"
	"testing"

	"kohaku/encap"
	"kohaku/tun"
)

// FuzzL2 feeds frames to the device, twice in a row while a resolution of each
// family is under way. Whatever comes, nothing panics, the table stays bounded
// and consistent, the kernel gets only whole IP packets of which it is told
// the true length, and what the device answers is well-formed.
func FuzzL2(f *testing.F) {
	for _, s := range [][]byte{
		arpAnswer(), ndAnswer(), dadFor(our6),
		appendARP(nil, arpRequest, broadcastMAC, peerMAC, peer4, [6]byte{}, our4),
		appendARP(nil, arpRequest, broadcastMAC, peerMAC, our4, [6]byte{}, our4),
		appendSolicitation(nil, groupMAC(solicitedNode(our6)), peerMAC, peer6, solicitedNode(our6), our6),
		appendAdvertisement(nil, groupMAC(allNodes), peerMAC, allNodes, peer6, ndOverride),
		eth(ourMAC, peerMAC, udp(peer4, our4, "x")), eth(ourMAC, peerMAC, udp(peer6, our6, "x")),
		icmp6Frame(ourMAC, peer6, our6, 255, append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, peer6.AsSlice()...)),
		icmp6Frame(ourMAC, peer6, our6, 255, append(append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, our6.AsSlice()...), 1, 0)),
		nil, make([]byte, 14), arpAnswer()[:20],
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		fk := newFake(8)
		d, err := New(fk, Options{HardwareAddr: ourMAC, Addrs: []netip.Addr{our4, our6}})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		r := &rig{nil, fk, d}
		q := d.Queues()[0]
		fk.kernel <- [][]byte{udp(our4, peer4, "x"), udp(our6, peer6, "x")}
		arena, frames := make([]byte, tun.MinArena), make([]tun.Frame, 16)
		drain := func() {
			for {
				n, err := q.Read(arena, frames)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range frames[:n] {
					checkOwn(t, f.Data())
				}
				if n == 0 {
					return
				}
			}
		}
		for d.Stats().Requests < 2 {
			if err := q.Wait(); err != nil {
				t.Fatal(err)
			}
			drain()
		}
		for range 2 {
			if len(frame) > tun.MaxFrame {
				break
			}
			if n, err := q.Write([]encap.Run{{Parts: [][]byte{bytes.Clone(frame)}}}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			drain()
		}
		for _, p := range r.f.take() {
			if ip, ok := parseIP(p); !ok || ip.length != len(p) {
				t.Fatalf("the kernel got %x", p)
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		(&cache{table: d.table}).consistent(t)
		if len(d.table.entries) > 4 || d.table.packets > 2 {
			t.Fatalf("%d entries and %d packets from two frames", len(d.table.entries), d.table.packets)
		}
		for _, n := range d.table.entries {
			if n.known && !station(n.mac) {
				t.Fatalf("%s is at %x", n.addr, n.mac)
			}
		}
	})
}

// checkOwn checks a frame that the device sends.
func checkOwn(t *testing.T, f []byte) {
	if len(f) < ethLen || [6]byte(f[6:12]) != ourMAC {
		t.Fatalf("sent %x", f)
	}
	if f[12] == 8 && f[13] == 6 {
		if len(f) != ethLen+arpLen {
			t.Fatalf("sent ARP %x", f)
		}
		return
	}
	p, ok := parseIP(f[ethLen:])
	if !ok || p.length != len(f)-ethLen {
		t.Fatalf("sent %x", f)
	}
	if ndType(f[ethLen:]) != 0 {
		if m, ok := parseND(f[ethLen:], &p); !ok || !m.known || m.mac != ourMAC {
			t.Fatalf("sent %x", f)
		}
	}
}
