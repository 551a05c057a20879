// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"kohaku/encap"
	"kohaku/engine"

	"github.com/vishvananda/netlink"
)

// What is accepted and what is dropped, the kernel's driver and us beside each
// other (see rig). Where the two columns differ, we differ on purpose.

// receiveRow is one kind of datagram and what becomes of it.
type receiveRow struct {
	name         string
	probe        func(r *rig, e *rigEnd) probe
	ours, theirs string // outcomes
}

// good is a frame that everybody accepts.
func good(_ *rig, e *rigEnd) []byte { return innerUDP(e.mac, 0, 1, 30) }

// header is a good frame behind a VXLAN header of one's own.
func header(h ...byte) func(r *rig, e *rigEnd) probe {
	return func(r *rig, e *rigEnd) probe { return probe{data: append(slices.Clone(h), good(r, e)...)} }
}

// inner is a frame of one's own.
func inner(frame func(r *rig, e *rigEnd) []byte) func(r *rig, e *rigEnd) probe {
	return func(r *rig, e *rigEnd) probe { return probe{data: vxlanDatagram(overlayVNI, frame(r, e))} }
}

// changed is a good frame with a change.
func changed(change func(f []byte)) func(r *rig, e *rigEnd) probe {
	return inner(func(r *rig, e *rigEnd) []byte { f := good(r, e); change(f); return f })
}

const (
	delivered = "delivered"
	silent    = "dropped"
)

func dropped(d engine.Drop) string { return "dropped: " + d.String() }

var receiveRows = []receiveRow{
	{"good frame", inner(good), delivered, delivered},
	{"I flag missing", header(0, 0, 0, 0, 0, 0x10, 0x92, 0), dropped(engine.DropHeaderNoVNI), silent},
	{"unknown VNI", header(8, 0, 0, 0, 0, 0x10, 0x93, 0), dropped(engine.DropUnknownVNI), silent},
	{"header of 7 bytes", func(*rig, *rigEnd) probe { return probe{data: []byte{8, 0, 0, 0, 0, 0x10, 0x92}} },
		dropped(engine.DropHeaderShort), silent},
	{"no bytes at all", func(*rig, *rigEnd) probe { return probe{} }, dropped(engine.DropHeaderShort), silent},
	{"inner frame of 13 bytes", inner(func(r *rig, e *rigEnd) []byte { return good(r, e)[:13] }), dropped(engine.DropFrameShort), silent},
	{"no inner frame", inner(func(*rig, *rigEnd) []byte { return nil }), dropped(engine.DropFrameShort), silent},

	{"reserved bit in the first word", header(9, 0, 0, 0, 0, 0x10, 0x92, 0), dropped(engine.DropHeaderReserved), reservedTheirs},
	{"reserved byte behind the VNI", header(8, 0, 0, 0, 0, 0x10, 0x92, 1), dropped(engine.DropHeaderReserved), reservedTheirs},
	{"remote checksum offload", header(8, 0x20, 0, 0, 0, 0x10, 0x92, 0x80), dropped(engine.DropHeaderReserved), reservedTheirs},
	{"group based policy", header(0x88, 0, 0, 7, 0, 0x10, 0x92, 0), dropped(engine.DropHeaderReserved), reservedTheirs},
	{"generic protocol extension", header(0x0c, 0, 0, 3, 0, 0x10, 0x92, 0), dropped(engine.DropHeaderReserved), reservedTheirs},

	// It is not a tunnel's business to parse it; the receiving stack drops it.
	{"truncated inner IPv4 header", inner(func(r *rig, e *rigEnd) []byte { return good(r, e)[:14+11] }),
		delivered, "dropped: rx_errors rx_length_errors"},
	{"truncated inner IPv6 header", inner(func(_ *rig, e *rigEnd) []byte { return innerUDP6(e.mac, 0, 30)[:14+20] }),
		delivered, "dropped: rx_errors rx_length_errors"},
	{"inner frame that is not IP", inner(func(_ *rig, e *rigEnd) []byte { return append(ethernet(e.mac, 0x88cc), make([]byte, 46)...) }),
		delivered, delivered},

	// Larger than the device's MTU, in fragments on the underlay.
	{"inner frame above the MTU", inner(func(_ *rig, e *rigEnd) []byte { return innerUDP(e.mac, 0, 1, 1600) }), delivered, delivered},

	{"own source MAC", func(r *rig, e *rigEnd) probe {
		return changed(func(f []byte) { copy(f[6:], e.mac) })(r, e)
	}, dropped(engine.DropOwnMAC), silent},
	{"multicast source MAC", changed(func(f []byte) { f[6] |= 1 }), dropped(engine.DropMulticastSource), delivered},
	{"outer source that is no peer", func(r *rig, e *rigEnd) probe {
		p := inner(good)(r, e)
		p.from = otherSource(r.v6).Addr()
		return p
	}, dropped(engine.DropWrongPeer), delivered},

	{"VLAN tag", inner(func(r *rig, e *rigEnd) []byte { return tagged(good(r, e), 0x8100, 7) }), delivered, delivered},
	{"VLAN priority tag", inner(func(r *rig, e *rigEnd) []byte { return tagged(good(r, e), 0x8100, 0xe000) }), delivered, delivered},
	{"QinQ", inner(func(r *rig, e *rigEnd) []byte { return tagged(good(r, e), 0x88a8, 100, 0x8100, 7) }), delivered, delivered},
	{"QinQ over IPv6", inner(func(_ *rig, e *rigEnd) []byte { return tagged(innerUDP6(e.mac, 0, 30), 0x88a8, 100, 0x8100, 7) }), delivered, delivered},
}

const reservedTheirs = "dropped: rx_errors rx_frame_errors"

func TestSemanticsReceive(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(underlayName(v6), func(t *testing.T) {
			r := newRig(t, rigConfig{v6: v6})
			for _, row := range receiveRows {
				for i, want := range [2]string{row.ours, row.theirs} {
					e := r.ends()[i]
					if got := r.outcome(e, row.probe(r, e)); got != want {
						t.Errorf("%s: %s: %s, want %s", row.name, e.Name(), got, want)
					}
				}
			}
		})
	}
}

func underlayName(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// Frames arrive byte for byte as they left, tags and all.
func TestSemanticsContent(t *testing.T) {
	r := newRig(t, rigConfig{})
	for _, e := range r.ends() {
		for name, f := range map[string][]byte{
			"plain": good(r, e), "VLAN": tagged(good(r, e), 0x8100, 7), "QinQ": tagged(good(r, e), 0x88a8, 100, 0x8100, 7),
			"not IP": append(ethernet(e.mac, 0x88cc), bytes.Repeat([]byte("x"), 46)...),
		} {
			got := r.received(e, probe{data: vxlanDatagram(overlayVNI, f)})
			if len(got) != 1 || !bytes.Equal(got[0], f) {
				t.Errorf("%s, %s: arrived as %x, was sent as %x", e.Name(), name, got, f)
			}
		}
	}
}

// Without a UDP checksum: IPv4 takes it, IPv6 only when told to.
func TestSemanticsZeroChecksum(t *testing.T) {
	for _, c := range []struct {
		v6, allow    bool
		ours, theirs string
	}{
		{false, false, delivered, delivered},
		{true, false, silent, silent}, // by the UDP layer, before either sees it
		{true, true, delivered, delivered},
	} {
		t.Run(fmt.Sprintf("%s, allowed %v", underlayName(c.v6), c.allow), func(t *testing.T) {
			r := newRig(t, rigConfig{
				v6: c.v6, engine: engine.Config{ZeroChecksum6: c.allow}, kernel: func(v *netlink.Vxlan) { v.UDP6ZeroCSumRx = c.allow },
			})
			for i, want := range [2]string{c.ours, c.theirs} {
				e := r.ends()[i]
				p := inner(good)(r, e)
				p.noSum = true
				if got := r.outcome(e, p); got != want {
					t.Errorf("%s: %s, want %s", e.Name(), got, want)
				}
			}
		})
	}
}

// Every pair of inner and outer ECN, over both inner families: what is delivered,
// and with which ECN, is the kernel's (RFC 6040 section 4.2).
func TestSemanticsECNOut(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(underlayName(v6), func(t *testing.T) {
			r := newRig(t, rigConfig{v6: v6})
			for _, inner6 := range []bool{false, true} {
				for in := range uint8(4) {
					for out := range 4 {
						ours, theirs := r.ecnOut(r.ours, inner6, in, out), r.ecnOut(r.theirs, inner6, in, out)
						if ours != theirs || (ours == "dropped") != (in == 0 && out == 3) {
							t.Errorf("inner IPv6 %v, outer %s, inner %s: ours %s, the kernel's %s", inner6, ecnNames[out], ecnNames[in], ours, theirs)
						}
					}
				}
			}
		})
	}
}

var ecnNames = [4]string{"Not-ECT", "ECT(1)", "ECT(0)", "CE"}

// ecnOut says what an end makes of an inner and an outer ECN.
func (r *rig) ecnOut(e *rigEnd, inner6 bool, in uint8, out int) string {
	r.t.Helper()
	f := innerUDP(e.mac, 0xb8|in, 1, 30)
	if inner6 {
		f = innerUDP6(e.mac, 0xb8|in, 30)
	}
	before := e.losses(r.t)
	if frames := r.received(e, probe{tos: out, data: vxlanDatagram(overlayVNI, f)}); len(frames) > 0 {
		got := frames[0]
		tos, _ := encap.TOS(got)
		if !inner6 && encap.Checksum(got[14:34], 0) != 0xffff {
			r.t.Errorf("%s: the IPv4 header's checksum is wrong: %x", e.Name(), got)
		}
		return fmt.Sprintf("DSCP %#x, %s", tos&^3, ecnNames[tos&3])
	}
	counted := e.losses(r.t).since(before)
	if e.engine != nil && counted["ecn"] != 1 || e.engine == nil && counted["rx_frame_errors"] != 1 {
		r.t.Errorf("%s: dropped, and counted as %v", e.Name(), counted)
	}
	return "dropped"
}

// Bytes are counted as inner frames by us; by the kernel's device, without the
// Ethernet header.
func TestSemanticsBytesCounted(t *testing.T) {
	r := newRig(t, rigConfig{})
	const n = 5
	for _, e := range r.ends() {
		f := good(r, e)
		count := func() (rx, tx uint64) {
			if e.engine != nil {
				s := e.engine.Tunnels()[0]
				return s.Rx.Bytes, s.Tx.Bytes
			}
			s := must(e.dev.Link())(t).Attrs().Statistics
			return s.RxBytes, s.TxBytes
		}
		r.settle(e)
		rx, tx := count()
		if got := len(r.received(e, probe{data: vxlanDatagram(overlayVNI, f), copies: n})); got != n {
			t.Fatalf("%s delivered %d of %d", e.Name(), got, n)
		}
		out := innerUDP(proberMAC, 0, 1, 30)
		copy(out[6:], e.mac)
		r.sent(e, out)
		rx2, tx2 := count()
		fence := uint64(2 * (14 + 9 + 40)) // settle's own frames, before and after
		wantRx, wantTx := n*uint64(len(f))+fence, uint64(len(out))
		if e.engine == nil {
			wantRx, wantTx = wantRx-14*(n+2), wantTx-14
		}
		if rx2-rx != wantRx || tx2-tx != wantTx {
			t.Errorf("%s counted %d bytes in and %d out, want %d and %d", e.Name(), rx2-rx, tx2-tx, wantRx, wantTx)
		}
	}
}
