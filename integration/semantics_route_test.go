// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/lab"

	"github.com/vishvananda/netlink"
)

// What happens when the way to the peer changes under a tunnel, the kernel's driver
// and us beside each other (see rig). Each event is undone, and traffic resumes by
// itself.

// toPeer is the route to the prober alone, by a device.
func (r *rig) toPeer(e *rigEnd, device string) *netlink.Route {
	r.t.Helper()
	l := must(lab.Port{Node: e.Node, Name: device}.Link())(r.t)
	a := r.prober.Addr(r.v6)
	bits := 8 * len(a.AsSlice())
	return &netlink.Route{
		LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, bits)}, Scope: netlink.SCOPE_LINK,
	}
}

// flows transmits until the prober gets something.
func (r *rig) flows(e *rigEnd) {
	r.t.Helper()
	c := must(r.prober.Port.Capture(func(p lab.Packet) bool {
		o, ok := parseOuter(p.Data)
		return ok && !p.Outgoing && o.dport == encap.DefaultPort && o.src == e.Addr(r.v6)
	}))(r.t)
	defer func() {
		if _, err := c.Stop(); err != nil {
			r.t.Error(err)
		}
	}()
	eventually(r.t, 20*time.Second, "traffic of "+e.Name()+" flows", func() error {
		r.transmit(e, from(e, innerUDP(proberMAC, 0, 1, 30)))
		if len(c.Packets()) == 0 {
			return errors.New("nothing came")
		}
		return nil
	})
}

// counts transmits until all of the counters named have counted.
func (r *rig) counts(e *rigEnd, names string) {
	r.t.Helper()
	before := e.losses(r.t)
	eventually(r.t, 20*time.Second, e.Name()+" counts "+names, func() error {
		r.transmit(e, from(e, innerUDP(proberMAC, 0, 1, 30)))
		now := e.losses(r.t).since(before)
		for _, name := range strings.Fields(names) {
			if now[name] == 0 {
				return fmt.Errorf("counted are %v", now)
			}
		}
		return nil
	})
}

func TestSemanticsRoutes(t *testing.T) {
	unreachable := func(r *rig, e *rigEnd) *netlink.Route {
		route := r.toPeer(e, "eth0")
		route.LinkIndex, route.Type = 0, 7 // RTN_UNREACHABLE
		route.Scope = netlink.SCOPE_UNIVERSE
		return route
	}
	for _, v6 := range []bool{false, true} {
		for name, c := range map[string]struct {
			route        func(r *rig, e *rigEnd) *netlink.Route
			ours, theirs string
		}{
			"circular": {func(r *rig, e *rigEnd) *netlink.Route { return r.toPeer(e, overlayDevice) }, "loop", "collisions tx_errors"},
			"no route": {unreachable, "no_route", "tx_carrier_errors tx_errors"},
		} {
			t.Run(name+" "+underlayName(v6), func(t *testing.T) {
				r := newRig(t, rigConfig{v6: v6})
				for i, names := range [2]string{c.ours, c.theirs} {
					e := r.ends()[i]
					if v6 && name == "circular" {
						// Without IPv6 on the device there is no route by it.
						check(t, e.Sysctl("net.ipv6.conf."+overlayDevice+".disable_ipv6", "0"))
					}
					r.flows(e)
					route := c.route(r, e)
					check(t, e.Handle().RouteAdd(route))
					r.counts(e, names)
					check(t, e.Handle().RouteDel(route))
					r.flows(e)
				}
			})
		}
	}
}

// The underlay's device goes down and comes back; then it is deleted and made anew.
// A kernel device that was made on top of it goes with it, ours does not.
func TestSemanticsUnderlayDevice(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(underlayName(v6), func(t *testing.T) {
			r := newRig(t, rigConfig{v6: v6})
			e := r.ours
			check(t, r.theirs.Handle().LinkDel(must(r.theirs.dev.Link())(t)))
			lower := must(r.theirs.Port.Link())(t).Attrs().Index
			r.addKernelEnd(r.theirs.UnderlayHost, func(v *netlink.Vxlan) { v.VtepDevIndex = lower })

			// Of the devices made from now on, as of eth0 when it comes back.
			check(t, e.Sysctl("net.ipv6.conf.default.disable_ipv6", "0"))
			check(t, e.Sysctl("net.ipv6.conf.eth0.disable_ipv6", "0"))
			r.flows(e)
			check(t, e.SetDown("eth0"))
			r.counts(e, "no_route")
			check(t, e.SetUp("eth0"))
			check(t, e.WaitUp(within(t, 20*time.Second), "eth0"))
			if v6 { // the address went with the link
				check(t, e.AddAddr("eth0", netip.PrefixFrom(e.V6, 64)))
			}
			r.flows(e)

			for _, x := range r.ends() {
				check(t, x.Delete("eth0"))
			}
			if _, err := r.theirs.dev.Link(); err == nil {
				t.Error("the kernel's device outlives its underlay")
			}
			r.counts(e, "no_route")
			if l, err := e.dev.Link(); err != nil || l.Attrs().RawFlags&0x40 == 0 { // IFF_RUNNING
				t.Errorf("our device has lost its carrier: %v, %v", l, err)
			}
			port, atSwitch, err := r.net.Switch.Attach(e.Node, "eth0")
			check(t, err)
			check(t, lab.Wire.Apply(port, atSwitch))
			bits := 24
			if v6 {
				bits = 64
			}
			check(t, e.AddAddr("eth0", netip.PrefixFrom(e.Addr(v6), bits)))
			check(t, e.WaitUp(within(t, 20*time.Second), "eth0"))
			r.flows(e)
			if s := e.engine.Stats(); !s.UDPGSO {
				t.Error("UDP_SEGMENT was given up because the address was away")
			}
		})
	}
}

// A tunnel to oneself: the kernel makes it and hands its frames to its own device;
// we refuse, as we refuse one whose route leads into itself.
func TestSemanticsRefusedPeers(t *testing.T) {
	r := newRig(t, rigConfig{})
	self := r.theirs.V4
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "self"
	check(t, r.theirs.Handle().LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: 9, Port: encap.DefaultPort, SrcAddr: self.AsSlice(), Group: self.AsSlice(),
	}))
	e := r.ours
	err := e.engine.Update(overlayVNI, engine.Peer{Remote: e.V4, Local: e.V4})
	if err == nil || !strings.Contains(err.Error(), "a tunnel to oneself is a loop") {
		t.Errorf("remote and local the same: %v", err)
	}
	check(t, e.AddAddr(overlayDevice, netip.MustParsePrefix("10.77.0.1/24")))
	err = e.engine.Update(overlayVNI, engine.Peer{Remote: netip.MustParseAddr("10.77.0.2")})
	if !errors.Is(err, engine.ErrCircular) {
		t.Errorf("a remote inside the tunnel: %v", err)
	}
	r.flows(e) // as before
}

// The MTU of a device that is made without one: the kernel's depends on how it was
// made, ours (kohaku tunnel, the daemons) never does.
func TestSemanticsDefaultMTU(t *testing.T) {
	r := newRig(t, rigConfig{})
	lower := must(r.theirs.Port.Link())(t).Attrs().Index
	for i, c := range []struct {
		lower int
		v6    bool
		want  int
	}{{lower, false, 1450}, {lower, true, 1430}, {0, false, 1500}} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprintf("mtu%d", i)
		check(t, r.theirs.Handle().LinkAdd(&netlink.Vxlan{
			LinkAttrs: attrs, VxlanId: 100 + i, VtepDevIndex: c.lower, Port: encap.DefaultPort, Group: r.prober.Addr(c.v6).AsSlice(),
		}))
		l := must(r.theirs.Handle().LinkByName(attrs.Name))(t)
		if l.Attrs().MTU != c.want {
			t.Errorf("the kernel's device has an MTU of %d, want %d", l.Attrs().MTU, c.want)
		}
		if got := 1500 - encap.Overhead(c.v6); c.lower != 0 && got != c.want {
			t.Errorf("ours would have %d", got)
		}
	}
}
