// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"kohaku/engine"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"

	"golang.org/x/sys/unix"
)

// An offload that works until, in the middle of traffic, it does not. Left is the
// program below a filter that answers for the kernel (refuse_unsafe_test.go), right
// an engine of ours in this process. Datagrams are numbered: each arrives once, in
// order.
//
//	left: kohaku tunnel, refused --- switch --- right: ours
func TestOffloadRefused(t *testing.T) {
	for _, c := range []struct {
		what  string
		errno unix.Errno
		says  string // the program's one line, if there is one
	}{
		// No transmit checksum on the device below (net/ipv4/udp.c): for good.
		{"send", unix.EIO, "the kernel refuses UDP_SEGMENT"},
		// Segments that the path does not take, for this size and larger ones.
		{"send", unix.EINVAL, ""},
		{"send", unix.EMSGSIZE, ""},
		// Super-frames to the TAP (include/linux/virtio_net.h): for good.
		{"write", unix.EINVAL, "the kernel refuses super-frames"},
	} {
		for _, pass := range []int{0, 3} {
			t.Run(fmt.Sprintf("%s %v after %d", c.what, c.errno, pass), func(t *testing.T) {
				u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"left", "right"}})
				left, right := u.Hosts[0], u.Hosts[1]
				env := []string{roleEnv + "=" + roleRefuse, fmt.Sprintf("%s=%s %d %d", refuseWhat, c.what, int(c.errno), pass)}
				d := launchProgram(t, left.Node, env, "/proc/self/exe", must(kohakuBinary())(t),
					"tunnel", "--json", "--dev", overlayDevice, "--vni", fmt.Sprint(overlayVNI),
					"--local", left.V4.String(), "--remote", right.V4.String(), "--address", overlay4[0].String()+"/24")
				d.waitTunnel()
				check(t, left.AddAddr(overlayDevice, netip.PrefixFrom(overlay6[0], 64)))
				l := &link{mtu: 1450}
				l.left = &end{UnderlayHost: left, kind: ours, v4: overlay4[0], v6: overlay6[0], dev: lab.Port{Node: left.Node, Name: overlayDevice}}
				l.right = l.newEnd(t, right, left, ours, false, 1)
				testPingSizes(t, l, 700)
				numbered(t, l)
				testTCP(t, l, 2<<20)
				numbered(t, l)

				if err := d.end(syscall.SIGTERM); err != nil {
					t.Errorf("it ended with %v", err)
				}
				said := d.log()
				if !strings.Contains(said, "refused ") || strings.Contains(said, "refused 0 calls") {
					t.Errorf("nothing was refused:\n%s", said)
				}
				if c.says != "" && strings.Count(said, c.says) == 0 {
					t.Errorf("it does not say %q:\n%s", c.says, said)
				}
				var report struct{ Tunnel engine.TunnelStats }
				check(t, json.NewDecoder(strings.NewReader(said[strings.LastIndex(said, "\n{")+1:])).Decode(&report))
				if len(report.Tunnel.Drops) != 0 {
					t.Errorf("dropped: %v", report.Tunnel.Drops)
				}
				l.noDrops(t)
			})
		}
	}
}

// numbered sends trains of numbered datagrams both ways, of which all arrive, once
// and in order.
func numbered(t *testing.T, l *link) {
	t.Helper()
	ctx := within(t, time.Minute)
	for _, v6 := range []bool{false, true} {
		for _, d := range l.directions() {
			from, to := d[0], d[1]
			sink := closeAfter(t, open(t, to.Node, func() (*traffic.UDPSink, error) {
				return traffic.ListenUDP(netip.AddrPortFrom(to.addr(v6), 0))
			}))
			s := closeAfter(t, open(t, from.Node, func() (*traffic.UDPSender, error) {
				return traffic.DialUDP(from.addr(v6), sink.Addr())
			}))
			for i := range 30 {
				check(t, s.SendTrain(200+i, 8+i))
				check(t, s.SendTrain(1300, 20))
				check(t, waitFor(ctx, sink, s.Sent()))
			}
			if got := sink.Stats(); got.Received != s.Sent() || got.Duplicated+got.Reordered+got.Corrupt != 0 {
				t.Errorf("%s to %s: sent %d, arrived %+v", from.Name(), to.Name(), s.Sent(), got)
			}
		}
	}
}
