// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"kohaku/conf"
)

// Pool is the addresses of a Runner's subnet that containers can have: all but the
// network's own, the gateway, the Host's and the broadcast address. It is a small
// comparable value; the zero Pool holds no address.
type Pool struct {
	subnet        netip.Prefix
	first, last   uint32 // of the subnet: the network's and the broadcast address
	gateway, host uint32
}

// PoolOf gives the pool of runner id, which must be in 1..plan.MaxRunners().
func PoolOf(plan conf.Plan, id int) Pool {
	subnet := plan.Subnet(id)
	first := number(subnet.Addr())
	return Pool{
		subnet: subnet, first: first, last: first | (1<<(32-subnet.Bits()) - 1),
		gateway: number(plan.Gateway(id)), host: number(plan.HostOn(id)),
	}
}

// Subnet is the network that the pool is of.
func (p Pool) Subnet() netip.Prefix { return p.subnet }

// First is the lowest address of the pool.
func (p Pool) First() netip.Addr { return p.next(p.first, 1) }

// Last is the highest address of the pool.
func (p Pool) Last() netip.Addr { return p.next(p.last, ^uint32(0)) }

// next goes from n in steps of step to the first address of the pool.
func (p Pool) next(n, step uint32) netip.Addr {
	for n += step; n == p.gateway || n == p.host; {
		n += step
	}
	return addr(n)
}

// Size counts the pool's addresses.
func (p Pool) Size() int {
	if !p.subnet.IsValid() {
		return 0
	}
	return int(p.last-p.first) + 1 - 4
}

// Holds reports whether a container can have the address.
func (p Pool) Holds(a netip.Addr) bool { return p.check(a) == nil }

// check says why a container cannot have the address.
func (p Pool) check(a netip.Addr) error {
	if !p.subnet.Contains(a) {
		return fmt.Errorf("%s is not in the subnet %s", a, p.subnet)
	}
	switch number(a) {
	case p.first:
		return fmt.Errorf("%s is the address of the network %s itself", a, p.subnet)
	case p.gateway:
		return fmt.Errorf("%s is the gateway of %s", a, p.subnet)
	case p.host:
		return fmt.Errorf("%s is the Host's address on %s", a, p.subnet)
	case p.last:
		return fmt.Errorf("%s is the broadcast address of %s", a, p.subnet)
	}
	return nil
}

// number is an IPv4 address as one.
func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func addr(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
