// SPDX-License-Identifier: Apache-2.0

package l3

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"

	"kohaku/encap"
)

// Options says what Open is to make.
type Options struct {
	// MTU is the interface's MTU in bytes, 576 to 65535; 0 means 1450, which
	// fits an IPv4 underlay of plain Ethernet. New does not look at it.
	MTU int

	// HardwareAddr is the MAC address that the device shows to the tunnel. It
	// must be a single station's, and differ from the peer's. The zero value
	// means one that is derived from the interface's name and Seed and is
	// therefore the same after a restart.
	HardwareAddr [6]byte

	// Seed tells machines apart that have interfaces of one name; a machine id
	// is a good one. Empty means the host name.
	Seed string

	// Addrs are our own addresses: requests for them are answered, and our own
	// requests are sent from them. SetAddrs changes them later. Besides, the
	// device always has the link-local address that follows from its MAC
	// address (RFC 4291 appendix A).
	Addrs []netip.Addr

	// Routes says which neighbour takes the packets for a destination; the
	// longest matching prefix counts. A destination without a route is its own
	// next hop, as on one large subnet.
	Routes []Route

	// NextHop, when not nil, is asked instead of Routes. It is called for every
	// packet, by the Queue's reader, must not block and must not call the
	// Device. An invalid address means that there is no route.
	NextHop func(netip.Addr) netip.Addr

	// Router is what our neighbour advertisements say of us in their R flag. A
	// peer that has a default route through us, learned by router discovery,
	// needs it.
	Router bool

	// Persist lets the interface outlive the process, and Open take over one that
	// a process before us left. Linux only; New does not look at it.
	Persist bool

	// NoOffloads makes the kernel pass single packets, and take them. Linux only,
	// as nothing else passes anything larger; New does not look at it.
	NoOffloads bool

	// Log gets what an administrator should see; nil discards it.
	Log *slog.Logger
}

// A Route is one entry of Options.Routes.
type Route struct {
	Prefix netip.Prefix
	// Via is the neighbour that takes the packets. The zero value means that
	// the prefix is on the link: every destination in it is its own next hop,
	// and the last address of an IPv4 prefix is the subnet's broadcast.
	Via netip.Addr
}

const defaultMTU = 1500 - encap.Overhead4

func (o *Options) complete(name string) error {
	if o.MTU == 0 {
		o.MTU = defaultMTU
	}
	if o.MTU < int(encap.MinInnerMTU) || o.MTU > 65535 {
		return fmt.Errorf("MTU %d: must be %d to 65535", o.MTU, encap.MinInnerMTU)
	}
	if o.HardwareAddr == [6]byte{} {
		if o.Seed == "" {
			o.Seed, _ = os.Hostname() // without one, the name alone has to do
		}
		o.HardwareAddr = deriveMAC(name, o.Seed)
	}
	if o.HardwareAddr[0]&1 != 0 {
		return fmt.Errorf("MAC address %x: is a group's, not a station's", o.HardwareAddr)
	}
	for _, r := range o.Routes {
		if !r.Prefix.IsValid() || r.Via.IsValid() && (r.Via.IsMulticast() || r.Via.IsUnspecified()) {
			return fmt.Errorf("route to %s via %s: must have a prefix, and a single machine as next hop", r.Prefix, r.Via)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// deriveMAC makes a locally administered unicast address (IEEE 802, the bits
// 2 and 1 of the first byte).
func deriveMAC(name, seed string) [6]byte {
	h := sha256.Sum256([]byte("kohaku l3\x00" + name + "\x00" + seed))
	mac := [6]byte(h[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// routes looks up next hops.
type routes struct {
	table []Route // longest prefix first
	ask   func(netip.Addr) netip.Addr
}

func newRoutes(o *Options) routes {
	t := slices.Clone(o.Routes)
	for i := range t {
		t[i].Prefix = t[i].Prefix.Masked()
		t[i].Via = t[i].Via.Unmap().WithZone("")
	}
	slices.SortStableFunc(t, func(a, b Route) int { return cmp.Compare(b.Prefix.Bits(), a.Prefix.Bits()) })
	return routes{t, o.NextHop}
}

// next returns the next hop for dst, or that dst is a subnet's broadcast.
func (r *routes) next(dst netip.Addr) (hop netip.Addr, broadcast bool) {
	if r.ask != nil {
		return r.ask(dst).WithZone(""), false
	}
	for i := range r.table {
		e := &r.table[i]
		if !e.Prefix.Contains(dst) {
			continue
		}
		if e.Via.IsValid() {
			return e.Via, false
		}
		return dst, isBroadcast(e.Prefix, dst)
	}
	return dst, false
}

// isBroadcast reports whether a is the last address of p. Prefixes of 31 and
// 32 bits have no broadcast address (RFC 3021).
func isBroadcast(p netip.Prefix, a netip.Addr) bool {
	if !a.Is4() || p.Bits() > 30 {
		return false
	}
	b := a.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	host := uint32(1)<<(32-p.Bits()) - 1
	return v&host == host
}

// own is the immutable set of our addresses.
type own struct {
	addrs     map[netip.Addr]struct{}
	v4, v6    netip.Addr // the first of each family
	linkLocal netip.Addr
}

func newOwn(addrs []netip.Addr, mac [6]byte) *own {
	o := &own{addrs: map[netip.Addr]struct{}{}, linkLocal: linkLocal(mac)}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		o.addrs[a] = struct{}{}
		switch {
		case a.Is4() && !o.v4.IsValid():
			o.v4 = a
		case a.Is6() && !o.v6.IsValid():
			o.v6 = a
		}
	}
	o.addrs[o.linkLocal] = struct{}{}
	return o
}

func (o *own) has(a netip.Addr) bool {
	_, ok := o.addrs[a]
	return ok
}

// from chooses the address that a request about target is sent from: want if
// it is ours, else one of the family. For IPv4 there may be none; 0.0.0.0 is
// then what a prober without an address uses (RFC 5227) and what is answered.
func (o *own) from(target, want netip.Addr) netip.Addr {
	switch {
	case want.IsValid() && want.Is4() == target.Is4() && o.has(want):
		return want
	case target.Is4() && o.v4.IsValid():
		return o.v4
	case target.Is4():
		return netip.IPv4Unspecified()
	case target.IsLinkLocalUnicast() || !o.v6.IsValid():
		return o.linkLocal
	}
	return o.v6
}

// linkLocal is the link-local address with the modified EUI-64 of mac.
func linkLocal(mac [6]byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80,
		8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}
