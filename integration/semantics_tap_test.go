// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kohaku/engine"
	"kohaku/internal/lab"
	"kohaku/tun"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A persistent TAP in a bridge, whose engine ends: it loses its carrier, and the
// bridge its port; with the next engine both are back. In between somebody else
// had the device and left other settings in it.
func TestSemanticsTAPOutlivesItsEngine(t *testing.T) {
	u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"left", "right"}})
	left, right := u.Hosts[0], u.Hosts[1]
	dev := lab.Port{Node: left.Node, Name: overlayDevice}
	l := &link{mtu: 1450}
	l.left = &end{UnderlayHost: left, kind: ours, v4: overlay4[0], v6: overlay6[0], dev: lab.Port{Node: left.Node, Name: "br0"}}
	l.right = l.newEnd(t, right, left, kernel, false, 1)
	carrier := func(want bool) {
		t.Helper()
		eventually(t, 20*time.Second, fmt.Sprintf("carrier and bridge port, %v", want), func() error {
			flags := must(dev.Link())(t).Attrs().RawFlags
			port := must(left.Command(t.Context(), "bridge", "link", "show", "dev", overlayDevice).Output())(t)
			if (flags&unix.IFF_RUNNING != 0) != want || strings.Contains(string(port), "state forwarding") != want {
				return fmt.Errorf("flags %#x, %s", flags, port)
			}
			return nil
		})
	}
	for round := range 2 {
		var e *engine.Engine
		check(t, left.Do(func() (err error) {
			if e, err = engine.New(engine.Config{UDPGSO: true, UDPGRO: true}); err != nil {
				return err
			}
			d, err := tun.OpenTAP(overlayDevice, tun.Options{MTU: 1450, TSO: true, USO: true, Persist: true})
			if err != nil {
				return errors.Join(err, e.Close())
			}
			return e.Add(engine.Tunnel{VNI: overlayVNI, Device: d, Peer: engine.Peer{Remote: right.V4, Local: left.V4}})
		}))
		if round == 0 {
			check(t, left.AddBridge("br0", 1450))
			check(t, left.AddPort("br0", overlayDevice))
			check(t, left.SetUp(overlayDevice))
			check(t, left.SetUp("br0"))
			check(t, left.AddAddr("br0", netip.PrefixFrom(overlay4[0], 24)))
			check(t, left.AddAddr("br0", netip.PrefixFrom(overlay6[0], 64)))
		}
		carrier(true)
		testPingSizes(t, l, 700)
		testTCP(t, l, 4<<20)
		check(t, e.Close())
		carrier(false)
		check(t, left.Do(func() error { return disturb(overlayDevice) }))
	}
	check(t, left.Handle().LinkDel(must(dev.Link())(t)))
}

// disturb attaches to a persistent TAP, gives it no offloads and a longer header,
// and leaves.
func disturb(name string) error {
	l := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_MULTI_QUEUE_DEFAULTS | netlink.TUNTAP_VNET_HDR, Queues: 1,
	}
	if err := netlink.LinkAdd(l); err != nil {
		return err
	}
	defer l.Fds[0].Close()
	fd := int(l.Fds[0].Fd())
	return errors.Join(unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0), unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, 12))
}
