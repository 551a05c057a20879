// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
)

// truth is ordered, so that min is "and".
type truth int

const (
	no truth = iota
	maybe
	yes
)

func truly(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth { return yes - t }

// packet is the first one of a flow, as far as rules ask for it. An invalid address
// and an empty device are not known.
type packet struct {
	in, out      string
	src, dst     netip.Addr
	proto        string // tcp or udp
	sport, dport uint16
}

// field is what a packet has where an expression looks: a text or an address. With
// absent set, rules that look there do not apply.
type field struct {
	text   string
	number int // -1: none
	addr   netip.Addr
	absent bool
	known  bool
}

func textField(s string) field { return field{text: s, number: -1, known: s != ""} }
func numberField(n int) field  { return field{text: strconv.Itoa(n), number: n, known: true} }

var absentField = field{absent: true, known: true, number: -1}

// look finds the field that the left side of a match names.
func (p packet) look(left json.RawMessage) field {
	var l struct {
		Meta *struct {
			Key string `json:"key"`
		} `json:"meta"`
		Payload *struct {
			Protocol string `json:"protocol"`
			Field    string `json:"field"`
		} `json:"payload"`
		CT *struct {
			Key string `json:"key"`
		} `json:"ct"`
	}
	if json.Unmarshal(left, &l) != nil {
		return field{number: -1}
	}
	switch {
	case l.Meta != nil:
		switch l.Meta.Key {
		case "iifname", "iif":
			return textField(p.in)
		case "oifname", "oif":
			return textField(p.out)
		case "l4proto":
			return textField(p.proto)
		case "nfproto":
			if p.src.Is6() {
				return textField("ipv6")
			}
			return textField("ipv4")
		case "protocol":
			if p.src.Is6() {
				return textField("ip6")
			}
			return textField("ip")
		case "mark":
			return field{number: -1}
		}
	case l.CT != nil:
		switch l.CT.Key {
		case "state":
			return textField("new")
		case "status":
			return textField("none")
		}
	case l.Payload != nil:
		return p.payload(l.Payload.Protocol, l.Payload.Field)
	}
	return field{number: -1}
}

func (p packet) payload(protocol, name string) field {
	address := func(a netip.Addr) field { return field{addr: a, number: -1, known: a.IsValid()} }
	version, other := "ip", "ip6"
	if p.src.Is6() {
		version, other = other, version
	}
	switch protocol {
	case other:
		return absentField
	case version:
		switch name {
		case "saddr":
			return address(p.src)
		case "daddr":
			return address(p.dst)
		case "protocol", "nexthdr":
			return textField(p.proto)
		}
		return field{number: -1}
	case p.proto, "th":
		switch name {
		case "dport":
			return numberField(int(p.dport))
		case "sport":
			return numberField(int(p.sport))
		}
		return field{number: -1}
	case "tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "udplite", "ah", "esp", "arp":
		return absentField
	}
	return field{number: -1}
}

// match decides a match expression.
func (p packet) match(body json.RawMessage) truth {
	var m nftMatch
	if json.Unmarshal(body, &m) != nil {
		return maybe
	}
	f := p.look(m.Left)
	switch {
	case !f.known:
		return maybe
	case f.absent:
		return no
	}
	switch m.Op {
	case "==", "in":
		return f.is(m.Right, 0)
	case "!=":
		return f.is(m.Right, 0).not()
	}
	return maybe
}

// is compares with a constant of any shape: a text, a number, a prefix, a range, a
// set or a list of flags.
func (f field) is(right json.RawMessage, depth int) truth {
	if depth > 4 {
		return maybe
	}
	var text string
	if json.Unmarshal(right, &text) == nil {
		return f.isText(text)
	}
	var number int
	if json.Unmarshal(right, &number) == nil {
		if f.number < 0 {
			return maybe
		}
		return truly(f.number == number)
	}
	var list []json.RawMessage
	if json.Unmarshal(right, &list) == nil {
		return f.isAny(list, depth)
	}
	var shape struct {
		Set    []json.RawMessage `json:"set"`
		Range  []json.RawMessage `json:"range"`
		Prefix *struct {
			Addr string `json:"addr"`
			Len  int    `json:"len"`
		} `json:"prefix"`
		Elem *struct {
			Val json.RawMessage `json:"val"`
		} `json:"elem"`
	}
	if json.Unmarshal(right, &shape) != nil {
		return maybe
	}
	switch {
	case shape.Set != nil:
		return f.isAny(shape.Set, depth)
	case shape.Elem != nil:
		return f.is(shape.Elem.Val, depth+1)
	case shape.Prefix != nil:
		a, err := netip.ParseAddr(shape.Prefix.Addr)
		if err != nil || !f.addr.IsValid() {
			return maybe
		}
		prefix, err := a.Prefix(shape.Prefix.Len)
		if err != nil {
			return maybe
		}
		return truly(prefix.Contains(f.addr))
	case len(shape.Range) == 2:
		return f.within(shape.Range[0], shape.Range[1])
	}
	return maybe
}

func (f field) isText(text string) truth {
	if strings.HasPrefix(text, "@") { // a named set, whose elements were not listed
		return maybe
	}
	if f.addr.IsValid() {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return maybe
		}
		return truly(a == f.addr)
	}
	if start, ok := strings.CutSuffix(text, "*"); ok {
		return truly(strings.HasPrefix(f.text, start))
	}
	if f.number >= 0 { // a service by its name
		return maybe
	}
	return truly(f.text == text)
}

func (f field) isAny(list []json.RawMessage, depth int) truth {
	best := no
	for _, item := range list {
		best = max(best, f.is(item, depth+1))
	}
	return best
}

func (f field) within(from, to json.RawMessage) truth {
	var low, high int
	if f.number >= 0 && json.Unmarshal(from, &low) == nil && json.Unmarshal(to, &high) == nil {
		return truly(low <= f.number && f.number <= high)
	}
	var first, last string
	if f.addr.IsValid() && json.Unmarshal(from, &first) == nil && json.Unmarshal(to, &last) == nil {
		a, err1 := netip.ParseAddr(first)
		b, err2 := netip.ParseAddr(last)
		if err1 == nil && err2 == nil {
			return truly(a.Compare(f.addr) <= 0 && f.addr.Compare(b) <= 0)
		}
	}
	return maybe
}

// lookup finds the verdict that a map gives the packet.
func (p packet) lookup(m nftVMap) (verdict nftStatement, hit truth) {
	var data struct {
		Set [][2]json.RawMessage `json:"set"`
	}
	f := p.look(m.Key)
	if !f.known || json.Unmarshal(m.Data, &data) != nil {
		return nil, maybe
	}
	if f.absent {
		return nil, no
	}
	for _, pair := range data.Set {
		switch f.is(pair[0], 0) {
		case yes:
			if json.Unmarshal(pair[1], &verdict) != nil {
				return nil, maybe
			}
			return verdict, yes
		case maybe:
			return nil, maybe
		}
	}
	return nil, no
}
