// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Plan is the addressing plan of an overlay: how the 32 bits of an IPv4
// address are shared out.
//
//	|<- prefix ->|<- node ->|<- subnet ->|
//	|   base     |    id    | container  |
//
// Runner ids are 1..[Plan.MaxRunners]. Id 0 is the Host's own: its address is
// the first one of the overlay. On every runner's subnet the first address is
// the gateway (the runner's bridge) and .254 of the first 256 is the Host.
//
// Plan is a small comparable value. The zero Plan is not valid, and calling
// anything but IsValid, String, Overlaps or RunnerOf on it panics.
type Plan struct {
	base   uint32
	prefix uint8 // 1..24
	node   uint8 // 1..16
	subnet uint8 // 8..
}

// Offsets of the fixed addresses inside a subnet; Host .254 needs subnets of
// at least 8 bits, which [ParsePlan] guarantees.
const (
	gatewayOffset = 1
	hostOffset    = 254
)

// IsValid reports whether p is a plan that [ParsePlan] made.
func (p Plan) IsValid() bool { return p.prefix != 0 }

// String returns the plan as [ParsePlan] reads it, "10.0.0.0/8/8/16", or
// "invalid plan" for the zero Plan.
func (p Plan) String() string {
	if !p.IsValid() {
		return "invalid plan"
	}
	return fmt.Sprintf("%s/%d/%d/%d", addr4(p.base), p.prefix, p.node, p.subnet)
}

// Overlay returns the network that covers the Host and all runners,
// 10.0.0.0/8 by default.
func (p Plan) Overlay() netip.Prefix {
	p.must()
	return netip.PrefixFrom(addr4(p.base), int(p.prefix))
}

// HostAddr returns the Host's overlay address, 10.0.0.1 by default.
func (p Plan) HostAddr() netip.Addr {
	p.must()
	return addr4(p.base + 1)
}

// HostPrefix returns the Host's overlay address with the overlay's prefix
// length, as it is put on the Host's address device: 10.0.0.1/8 by default.
func (p Plan) HostPrefix() netip.Prefix {
	return netip.PrefixFrom(p.HostAddr(), int(p.prefix))
}

// MaxRunners returns the highest runner id, which is also how many runners the
// plan has room for: 255 by default.
func (p Plan) MaxRunners() int {
	p.must()
	return 1<<p.node - 1
}

// Subnet returns the network of runner id, 10.N.0.0/16 by default. It panics
// when id is not in 1..MaxRunners.
func (p Plan) Subnet(id int) netip.Prefix {
	return netip.PrefixFrom(addr4(p.start(id)), 32-int(p.subnet))
}

// Gateway returns the address of runner id's bridge, the containers' default
// gateway: 10.N.0.1 by default. It panics when id is not in 1..MaxRunners.
func (p Plan) Gateway(id int) netip.Addr { return addr4(p.start(id) + gatewayOffset) }

// HostOn returns the Host's address on runner id's subnet, 10.N.0.254 by
// default. It panics when id is not in 1..MaxRunners.
func (p Plan) HostOn(id int) netip.Addr { return addr4(p.start(id) + hostOffset) }

// RunnerOf returns the id of the runner in whose subnet a lies. ok is false
// when a is outside the overlay or in the part that belongs to the Host. An
// IPv4-mapped IPv6 address counts as the IPv4 address in it.
func (p Plan) RunnerOf(a netip.Addr) (id int, ok bool) {
	a = a.Unmap()
	if !p.IsValid() || !a.Is4() || !p.Overlay().Contains(a) {
		return 0, false
	}
	id = int((uint32Of(a) - p.base) >> p.subnet)
	return id, id != 0
}

// Overlaps reports whether the overlay and q have an address in common. An
// IPv4-mapped IPv6 prefix counts as the IPv4 prefix in it; other IPv6 prefixes
// and invalid ones never overlap.
func (p Plan) Overlaps(q netip.Prefix) bool {
	if a := q.Addr(); a.Is4In6() && q.Bits() >= 96 {
		q = netip.PrefixFrom(a.Unmap(), q.Bits()-96)
	}
	return p.IsValid() && q.IsValid() && p.Overlay().Overlaps(q)
}

// start is the first address of runner id's subnet.
func (p Plan) start(id int) uint32 {
	if n := p.MaxRunners(); id < 1 || id > n {
		panic(fmt.Sprintf("conf: runner id %d is outside 1..%d of plan %s", id, n, p))
	}
	return p.base | uint32(id)<<p.subnet
}

func (p Plan) must() {
	if !p.IsValid() {
		panic("conf: use of the zero Plan")
	}
}

func addr4(v uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], v)
	return netip.AddrFrom4(b)
}

func uint32Of(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}
