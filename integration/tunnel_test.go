// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"kohaku/engine"
	"kohaku/internal/lab"
)

// The engine as a command of its own, beside the kernel's driver:
//
//	left: kohaku tunnel --dev ov0 ... eth0 --- switch --- eth0 [ov0 kernel] right
func TestTunnelCommand(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(linkConfig{left: "command", right: kernel, v6: v6}.name(), func(t *testing.T) {
			u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"left", "right"}})
			left, right := u.Hosts[0], u.Hosts[1]
			d := launch(t, left.Node, "tunnel", "--json", "--dev", overlayDevice, "--vni", fmt.Sprint(overlayVNI),
				"--local", left.Addr(v6).String(), "--remote", right.Addr(v6).String(), "--address", overlay4[0].String()+"/24")
			check(t, left.WaitUp(within(t, 20*time.Second), overlayDevice))
			device := lab.Port{Node: left.Node, Name: overlayDevice}
			mtu := must(device.Link())(t).Attrs().MTU
			if want := map[bool]int{false: 1450, true: 1430}[v6]; mtu != want {
				t.Errorf("the device's MTU is %d, want %d", mtu, want)
			}

			l := &link{mtu: mtu}
			l.left = &end{UnderlayHost: left, kind: ours, v4: overlay4[0], v6: overlay6[0], dev: device}
			l.right = l.newEnd(t, right, left, kernel, v6, 1)
			eventually(t, 20*time.Second, "the device has its address", func() error {
				for _, a := range must(left.Handle().AddrList(must(device.Link())(t), syscall.AF_INET))(t) {
					if a.IP.Equal(overlay4[0].AsSlice()) {
						return nil
					}
				}
				return fmt.Errorf("no %s", overlay4[0])
			})
			bulk(t, [][2]node{{{left.Node, overlay4[0]}, {right.Node, overlay4[1]}}, {{right.Node, overlay4[1]}, {left.Node, overlay4[0]}}}, 16<<20)

			if err := d.end(syscall.SIGTERM); err != nil {
				t.Errorf("it ended with %v after SIGTERM", err)
			}
			if _, err := device.Link(); err == nil {
				t.Error("the device stays after the command has ended")
			}
			var report struct{ Tunnel engine.TunnelStats }
			out := d.log()
			if err := json.Unmarshal([]byte(out[strings.LastIndex(out, "\n{")+1:]), &report); err != nil {
				t.Fatalf("the report is not JSON: %v\n%s", err, out)
			}
			if report.Tunnel.Rx.Bytes < 16<<20 || report.Tunnel.Tx.Bytes < 16<<20 {
				t.Errorf("the report says %+v", report.Tunnel)
			}
		})
	}
}
