// SPDX-License-Identifier: Apache-2.0

package link

import (
	"encoding/binary"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// bridgeAttrs are what makes a bridge forward at once: no spanning tree, no forward
// delay. In this order, because the kernel refuses a delay of 0 while spanning tree
// is on (br_set_forward_delay in net/bridge/br_stp.c). The library has no call for
// them.
var bridgeAttrs = []struct {
	op   string
	kind uint16 // IFLA_BR_* in include/uapi/linux/if_link.h
}{
	{"turn spanning tree off", nl.IFLA_BR_STP_STATE},
	{"turn the forward delay off", nl.IFLA_BR_FORWARD_DELAY},
}

// ensurePlainForwarding sets every one of bridgeAttrs to 0.
func ensurePlainForwarding(l netlink.Link) (changed bool, err error) {
	name := l.Attrs().Name
	for _, attr := range bridgeAttrs {
		have, err := bridgeAttr(l, attr.kind)
		if err != nil {
			return changed, fail("look at the bridge settings", name, err)
		}
		if have == 0 {
			continue
		}
		req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
		req.AddData(ifinfo(l))
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
		info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(int(attr.kind), nl.Uint32Attr(0))
		req.AddData(info)
		if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
			return changed, fail(attr.op, name, err)
		}
		changed = true
	}
	return changed, nil
}

// bridgeAttr reads one 32-bit attribute of a bridge; 0 when it is not told.
func bridgeAttr(l netlink.Link, kind uint16) (uint32, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(ifinfo(l))
	messages, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return 0, err
	}
	for _, m := range messages {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		data, err := nested(m[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA, kind)
		if err != nil {
			return 0, err
		}
		if len(data) == 4 {
			return binary.NativeEndian.Uint32(data), nil
		}
	}
	return 0, nil
}

// nested goes down a path of attribute types and gives the last one's value, nil
// when the path ends early.
func nested(data []byte, path ...uint16) ([]byte, error) {
	for _, kind := range path {
		attrs, err := nl.ParseRouteAttr(data)
		if err != nil {
			return nil, err
		}
		data = nil
		for _, a := range attrs {
			if a.Attr.Type&^unix.NLA_F_NESTED == kind {
				data = a.Value
			}
		}
		if data == nil {
			return nil, nil
		}
	}
	return data, nil
}

func ifinfo(l netlink.Link) *nl.IfInfomsg {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Attrs().Index)
	return msg
}
