// SPDX-License-Identifier: Apache-2.0

package link

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"kohaku/conf"
	"kohaku/internal/api"
)

// MaxAlias is the longest alias in bytes that the kernel stores (IFALIASZ - 1 in
// include/uapi/linux/if.h).
const MaxAlias = 255

const aliasPrefix = "kohaku v1"

// ErrForeignAlias is what ParseAlias answers when the alias is not one of ours.
var ErrForeignAlias = errors.New("not an alias of kohaku")

// Alias is what a device of ours says about itself in the text that `ip link show`
// prints as its alias. It is the daemons' memory: a daemon that starts reads its
// state from there. As text it reads, for example,
//
//	kohaku v1 vni=101 remote=192.168.88.61 runner=node1 machine=0123456789abcdef0123456789abcdef subnet=10.0.0.0/8/8/16 id=1 port=4789
//
// Fields that are not set are left out; the order is always the same.
type Alias struct {
	VNI     uint32     // 1..2^24-1; 0 on devices that carry no tunnel
	Remote  netip.Addr // the other end on the underlay; zero when not known
	Runner  string     // canonical hostname; empty on the Host's address device
	Machine string     // machine id of the runner
	Subnet  conf.Plan  // the plan by which the device's addresses were chosen
	ID      int        // runner id; 0 on the Host's address device
	Port    uint16     // UDP port of the tunnel; 0 on devices without one
}

// IsOurs reports whether the alias claims to be one of ours, well-formed or not.
func IsOurs(alias string) bool {
	return alias == "kohaku" || strings.HasPrefix(alias, "kohaku ")
}

// String gives the text for the device. It is at most MaxAlias bytes long for
// values that ParseAlias accepts.
func (a Alias) String() string {
	var b strings.Builder
	b.WriteString(aliasPrefix)
	field := func(name, value string) { b.WriteString(" " + name + "=" + value) }
	if a.VNI != 0 {
		field("vni", strconv.FormatUint(uint64(a.VNI), 10))
	}
	if a.Remote.IsValid() {
		field("remote", a.Remote.String())
	}
	if a.Runner != "" {
		field("runner", a.Runner)
	}
	if a.Machine != "" {
		field("machine", a.Machine)
	}
	if a.Subnet != (conf.Plan{}) {
		field("subnet", a.Subnet.String())
	}
	if a.ID != 0 {
		field("id", strconv.Itoa(a.ID))
	}
	if a.Port != 0 {
		field("port", strconv.Itoa(int(a.Port)))
	}
	return b.String()
}

// ParseAlias reads what String wrote. It is strict: a field that is unknown, twice,
// out of order or out of range makes the whole alias unusable, because acting on
// half of it could give a VNI out twice. The error is ErrForeignAlias for a text
// that does not even begin like ours.
func ParseAlias(s string) (Alias, error) {
	if !IsOurs(s) {
		return Alias{}, ErrForeignAlias
	}
	if len(s) > MaxAlias {
		return Alias{}, fmt.Errorf("alias of %d bytes, at most %d are possible", len(s), MaxAlias)
	}
	if s != aliasPrefix && !strings.HasPrefix(s, aliasPrefix+" ") {
		return Alias{}, fmt.Errorf("alias %q is not of version v1", s)
	}
	var a Alias
	for word := range strings.FieldsSeq(s[len(aliasPrefix):]) {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			return Alias{}, fmt.Errorf("alias %q: %q is no key=value", s, word)
		}
		if err := a.set(key, value); err != nil {
			return Alias{}, fmt.Errorf("alias %q: %s=%s: %w", s, key, value, err)
		}
	}
	if a.String() != s {
		return Alias{}, fmt.Errorf("alias %q is not in its canonical form %q", s, a.String())
	}
	return a, nil
}

func (a *Alias) set(key, value string) (err error) {
	number := func(high uint64) (uint64, error) {
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil || n == 0 || n > high {
			return 0, fmt.Errorf("a number in 1..%d is expected", high)
		}
		return n, nil
	}
	var n uint64
	switch key {
	case "vni":
		n, err = number(1<<24 - 1)
		a.VNI = uint32(n)
	case "remote":
		a.Remote, err = netip.ParseAddr(value)
		if err == nil && (a.Remote.Zone() != "" || a.Remote.Is4In6() || a.Remote.IsUnspecified() || a.Remote.IsMulticast()) {
			err = errors.New("not the address of one machine")
		}
	case "runner":
		a.Runner, err = api.CanonicalHostname(value)
	case "machine":
		a.Machine, err = value, api.CheckMachineID(value)
	case "subnet":
		a.Subnet, err = conf.ParsePlan(value)
	case "id":
		n, err = number(1<<16 - 1)
		a.ID = int(n)
	case "port":
		n, err = number(1<<16 - 1)
		a.Port = uint16(n)
	default:
		err = errors.New("unknown field")
	}
	return err
}
