// SPDX-License-Identifier: Apache-2.0

package l3_test

import (
	"net"
	"net/netip"
	"testing"

	"kohaku/encap"
	"kohaku/tun"
	"kohaku/tun/l3"
)

// The same as with a TUN in memory: with the kernel's, neither direction
// allocates for a packet.
func TestKernelNoAllocs(t *testing.T) {
	u := network(t, "a")
	a := u.Hosts[0]
	us := netip.MustParseAddr("10.1.0.254")
	var d *l3.Device
	do(t, a.Node, func() (err error) {
		d, err = l3.Open("tun0", l3.Options{Addrs: []netip.Addr{us}})
		return err
	})
	defer d.Close()
	must(t, a.SetUp("tun0"))
	addAddrs(t, a.Node, "tun0", "10.1.0.254/16")
	var c net.Conn
	do(t, a.Node, func() (err error) { c, err = net.Dial("udp4", "10.1.0.1:9"); return err })
	defer c.Close()

	q := d.Queues()[0]
	arena, frames := make([]byte, 2*tun.MinArena), make([]tun.Frame, 8)
	payload := []byte("payload")
	// next sends one packet and reads until it comes, or a request for it.
	next := func(isIt func(f []byte) bool) {
		if _, err := c.Write(payload); err != nil {
			t.Fatal(err)
		}
		for {
			if err := q.Wait(); err != nil {
				t.Fatal(err)
			}
			n, err := q.Read(arena, frames)
			if err != nil {
				t.Fatal(err)
			}
			for i := range frames[:n] {
				if isIt(frames[i].Data()) {
					return
				}
			}
		}
	}
	next(func(f []byte) bool { return f[12] == 8 && f[13] == 6 })
	mac := d.HardwareAddr()
	reply := append(append([]byte{}, mac[:]...), 2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 9, 10, 1, 0, 1)
	reply = append(append(reply, mac[:]...), us.AsSlice()...)
	if _, err := q.Write([]encap.Run{{Parts: [][]byte{reply}}}); err != nil {
		t.Fatal(err)
	}
	isUDP := func(f []byte) bool { return f[12] == 8 && f[13] == 0 && f[23] == 17 && string(f[42:]) == "payload" }
	next(isUDP)
	if n := testing.AllocsPerRun(200, func() { next(isUDP) }); n != 0 {
		t.Errorf("%v allocations for a packet out", n)
	}
	in := frameTo(mac)
	runs := []encap.Run{{Parts: [][]byte{in}}, {Parts: [][]byte{in}}}
	if n := testing.AllocsPerRun(200, func() {
		if n, err := q.Write(runs); n != 2 || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for two packets in", n)
	}
}
