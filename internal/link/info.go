// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Info is a device as it stands.
type Info struct {
	Name   string
	Index  int
	Type   string // as `ip -d link` names it; "tap" and "tun" told apart
	Alias  string
	MTU    int
	MAC    net.HardwareAddr
	Up     bool           // administratively
	Master int            // index of the bridge it is a port of, 0 for none
	Addrs  []netip.Prefix // with host bits, IPv4 and IPv6, link-local ones included
}

// Bare reports whether the device is as it was made: no alias, down, in no bridge,
// without an address. Nobody uses such a device; one of ours is in this state when
// a daemon dies between making it and marking it.
func (i Info) Bare() bool {
	return i.Alias == "" && !i.Up && i.Master == 0 && len(i.Addrs) == 0
}

// OursAs reports whether a device that has one of our names was made by us: it says
// so in its alias, or it is of the given type and nobody has touched it since it
// was made.
func (i Info) OursAs(kind string) bool {
	return IsOurs(i.Alias) || i.Type == kind && i.Bare()
}

// Dump repeats a netlink dump that the kernel says was torn by a change meanwhile.
func Dump[T any](get func() ([]T, error)) ([]T, error) {
	for tries := 0; ; tries++ {
		all, err := get()
		if errors.Is(err, netlink.ErrDumpInterrupted) && tries < 10 {
			continue
		}
		return all, err
	}
}

// Devices lists every device of the machine with its addresses.
func (Kernel) Devices() ([]Info, error) {
	links, err := Dump(netlink.LinkList)
	if err != nil {
		return nil, fail("list the devices", "", err)
	}
	addrs, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fail("list the addresses", "", err)
	}
	byIndex := make(map[int][]netip.Prefix)
	for _, a := range addrs {
		byIndex[a.LinkIndex] = append(byIndex[a.LinkIndex], ToPrefix(a.IPNet))
	}
	infos := make([]Info, 0, len(links))
	for _, l := range links {
		infos = append(infos, toInfo(l, byIndex[l.Attrs().Index]))
	}
	return infos, nil
}

// Device gives one device. The error matches ErrNotFound when it does not exist.
func (Kernel) Device(name string) (Info, error) {
	l, err := byName("look up the device", name)
	if err != nil {
		return Info{}, err
	}
	addrs, err := addrsOf(l)
	return toInfo(l, addrs), err
}

func addrsOf(l netlink.Link) ([]netip.Prefix, error) {
	addrs, err := Dump(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fail("list the addresses", l.Attrs().Name, err)
	}
	var out []netip.Prefix
	for _, a := range addrs {
		out = append(out, ToPrefix(a.IPNet))
	}
	return out, nil
}

// byName finds a device. Names are compared once more because the kernel also
// answers for alternative names.
func byName(op, name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	switch {
	case errors.As(err, &missing), errors.Is(err, unix.ENODEV):
		return nil, &Error{Op: op, Device: name, Err: ErrNotFound}
	case err != nil:
		return nil, fail(op, name, err)
	case l.Attrs().Name != name:
		return nil, &Error{Op: op, Device: name, Err: fmt.Errorf("%w (it is an alternative name of %s)", ErrNotFound, l.Attrs().Name)}
	}
	return l, nil
}

func toInfo(l netlink.Link, addrs []netip.Prefix) Info {
	a := l.Attrs()
	kind := l.Type()
	if t, ok := l.(*netlink.Tuntap); ok {
		if kind = "tun"; t.Mode == netlink.TUNTAP_MODE_TAP {
			kind = "tap"
		}
	}
	return Info{
		Name: a.Name, Index: a.Index, Type: kind, Alias: a.Alias, MTU: a.MTU, MAC: a.HardwareAddr,
		Up: a.Flags&net.FlagUp != 0, Master: a.MasterIndex, Addrs: addrs,
	}
}

// ToPrefix is an address of netlink's, host bits included; of none that can be
// read, the zero Prefix.
func ToPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return netip.Prefix{}
	}
	ones, bits := n.Mask.Size()
	if addr.Is4In6() && bits == 32 {
		addr = addr.Unmap()
	}
	return netip.PrefixFrom(addr, ones)
}

func fromPrefix(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
