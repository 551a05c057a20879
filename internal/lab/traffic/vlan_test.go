// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"time"

	"kohaku/internal/lab"
)

// Two machines, a cable between them, and VLAN 5 on the cable:
//
//	a: v5 10.5.0.1 -- eth0 ===== eth0 -- v5 10.5.0.2 :b
//
// TCP super-frames must cross as such, tagged.
func TestVLAN(t *testing.T) {
	a, b := pair(t, lab.UnderlayConfig{})
	addrs := []netip.Addr{netip.MustParseAddr("10.5.0.1"), netip.MustParseAddr("10.5.0.2")}
	for i, h := range []*lab.UnderlayHost{a, b} {
		v := must[*lab.VLAN](t)(h.AddVLAN("eth0", "v5", 5))
		defer func() {
			if err := v.Close(); err != nil {
				t.Error(err)
			}
		}()
		if err := h.AddAddr("v5", netip.PrefixFrom(addrs[i], 24)); err != nil {
			t.Fatal(err)
		}
	}
	tag := []byte{0x81, 0x00, 0x00, 0x05}
	capture := must[*lab.Capture](t)(b.Port.Capture(func(p lab.Packet) bool { return !p.Outgoing && bytes.Equal(p.Data[12:16], tag) }))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	p := in(t, a.Node, func() (*Pinger, error) { return NewPinger(addrs[0], addrs[1]) })
	for _, size := range []int{0, 1472} {
		if _, err := p.Ping(ctx, size); err != nil {
			t.Error(err)
		}
	}
	for i, x := range []struct{ from, to *lab.UnderlayHost }{{a, b}, {b, a}} {
		sink := in(t, x.to.Node, func() (*TCPSink, error) { return ListenTCP(netip.AddrPortFrom(addrs[1-i], 0)) })
		s := in(t, x.from.Node, func() (*TCPStream, error) { return DialTCP(ctx, addrs[i], sink.Addr()) })
		must[TCPResult](t)(s.Send(ctx, 1, 16<<20))
	}
	packets := must[[]lab.Packet](t)(capture.Stop())
	largest := 0
	for _, p := range packets {
		largest = max(largest, len(p.Data))
	}
	if largest < 10000 {
		t.Errorf("the largest tagged frame of %d has %d bytes; want super-frames", len(packets), largest)
	}
}
