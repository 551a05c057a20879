// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"kohaku/internal/lab"
)

// `kohaku tunnel --device tun` beside the kernel's driver, with the options for the
// outer header. An address that is added later is answered for, too.
func TestTunnelCommandTUN(t *testing.T) {
	u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"left", "right"}})
	left, right := u.Hosts[0], u.Hosts[1]
	d := launch(t, left.Node, "tunnel", "--device", "tun", "--dev", overlayDevice, "--vni", fmt.Sprint(overlayVNI),
		"--local", left.V4.String(), "--remote", right.V4.String(), "--address", overlay4[0].String()+"/24",
		"--ttl", "9", "--tos", "0x28", "--df", "set")
	d.waitTunnel()
	l := &link{mtu: 1450}
	l.left = &end{UnderlayHost: left, v4: overlay4[0], v6: overlay6[0], dev: lab.Port{Node: left.Node, Name: overlayDevice}}
	if kind := must(l.left.dev.Link())(t).Type(); kind != "tuntap" {
		t.Errorf("the device is a %s", kind)
	}
	l.right = l.newEnd(t, right, left, kernel, false, 1)
	check(t, left.AddAddr(overlayDevice, netip.PrefixFrom(overlay6[0], 64)))
	c := must(right.Port.Capture(func(p lab.Packet) bool { return !p.Outgoing }))(t)
	testPingSizes(t, l, 300)
	packets := must(c.Stop())(t)
	seen := 0
	for _, p := range packets {
		if o, ok := parseOuter(p.Data); ok {
			seen++
			if o.ttl != 9 || o.tos != 0x28 || !o.df {
				t.Fatalf("TTL %d, TOS %#x, DF %v", o.ttl, o.tos, o.df)
			}
		}
	}
	if seen == 0 {
		t.Error("no datagram was seen")
	}
	testTCP(t, l, 8<<20)
	testUDP(t, l, 61)
	if err := d.end(syscall.SIGTERM); err != nil {
		t.Errorf("it ended with %v after SIGTERM", err)
	}
	if _, err := l.left.dev.Link(); err == nil {
		t.Error("the device stays after the command has ended")
	}
}

// What would send a tunnel's datagrams into itself is refused, and leaves nothing.
func TestTunnelCommandRefusesLoops(t *testing.T) {
	u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"left", "right"}})
	left, right := u.Hosts[0], u.Hosts[1]
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"own address":     {[]string{"--remote", left.V4.String()}, "an address of this machine"},
		"beside the peer": {[]string{"--remote", right.V4.String(), "--address", "192.0.2.9/30"}, ""},
		"over the peer":   {[]string{"--remote", right.V4.String(), "--address", "192.0.2.9/25"}, "leads into ov0 itself"},
		"TUN, the same":   {[]string{"--device", "tun", "--remote", right.V4.String(), "--address", "192.0.2.9/25"}, "leads into ov0 itself"},
	} {
		t.Run(name, func(t *testing.T) {
			d := launch(t, left.Node, append([]string{"tunnel", "--dev", overlayDevice, "--vni", "7"}, c.args...)...)
			if c.says == "" {
				d.waitTunnel()
				check(t, d.end(syscall.SIGTERM))
				return
			}
			if err := d.end(0); err == nil || !strings.Contains(d.log(), c.says) {
				t.Errorf("it ended with %v and said %q", err, d.log())
			}
			if _, err := (lab.Port{Node: left.Node, Name: overlayDevice}).Link(); err == nil {
				t.Error("the device stays")
			}
		})
	}
}

// waitTunnel waits until `kohaku tunnel` says that it is ready: its device is up and
// has its address.
func (d *daemon) waitTunnel() {
	d.t.Helper()
	eventually(d.t, 20*time.Second, d.name+" is ready", func() error {
		if !strings.Contains(d.log(), "ready: ") {
			return fmt.Errorf("it says %q", d.log())
		}
		return nil
	})
}
