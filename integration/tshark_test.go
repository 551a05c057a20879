// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
)

// What another implementation reads in our datagrams. Both ends are ours; their
// devices finish checksums and cut super-frames before the cable, so what the
// switch sees is what a wire would carry:
//
//	left [ov0 ours] eth0 ---*-- switch ------- eth0 [ov0 ours] right
//	                        |
//	                     capture, then tshark
func TestTsharkReadsOurDatagrams(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		c := linkConfig{left: ours, right: ours, v6: v6, profile: lab.Wire, noTX: [2]bool{true, true}}
		t.Run(c.name(), func(t *testing.T) {
			l := newLink(t, c)
			file := captureTraffic(t, l)
			read := tshark(t, file)

			// Everything that may be wrong has a filter of its own, for the
			// message; one pass over all of them is enough when nothing is.
			wrongs := []string{
				"_ws.malformed",
				"_ws.expert.severity >= 0x600000", // warnings and errors
				"ip.checksum.status == Bad || ip.checksum.status == Unverified",
				"udp.checksum.status == Bad || udp.checksum.status == Unverified || udp.checksum == 0",
				"tcp.checksum.status == Bad || tcp.checksum.status == Unverified",
				"icmp.checksum.status == Bad || icmpv6.checksum.status == Bad",
				"udp.dstport == 4789 && !vxlan",
				fmt.Sprintf("vxlan && !(vxlan[0:4] == 08:00:00:00 && vxlan.vni == %d && vxlan[7] == 00)", overlayVNI),
				"vxlan && !(udp.dstport == 4789)",
				// Outer source ports come from the dynamic range (RFC 7348 section 4.1.1).
				"vxlan && !(udp.srcport >= 1024)",
			}
			if len(read("("+strings.Join(wrongs, ") || (")+")")) == 0 {
				wrongs = nil
			}
			for _, wrong := range wrongs {
				if lines := read(wrong); len(lines) != 0 {
					t.Errorf("%d frames match %q, the first: %s", len(lines), wrong, lines[0])
				}
			}
			outer := "ip.version == 4"
			if v6 {
				outer = "ipv6.version == 6"
			}
			for _, there := range []string{"arp", "icmp", "icmpv6.type == 128", "tcp.len > 1000", `frame.len > 1000 && frame.protocols matches "vxlan:eth:ethertype:ipv?6?:udp"`} {
				if len(read("vxlan && "+outer+" && "+there)) == 0 {
					t.Errorf("no datagram matches %q", there)
				}
			}
		})
	}
}

// tsharkUDPPort is where the inner datagrams go to, so that tshark can be told
// that they are data.
const tsharkUDPPort = 30000

// captureTraffic sends some of everything through the link and returns a
// capture of what crossed the switch.
func captureTraffic(t *testing.T, l *link) string {
	t.Helper()
	ctx := within(t, time.Minute)
	capture := must(l.left.AtPort.Capture(nil))(t)
	for _, v6 := range []bool{false, true} {
		for _, d := range l.directions() {
			p := closeAfter(t, open(t, d[0].Node, func() (*traffic.Pinger, error) {
				return traffic.NewPinger(d[0].addr(v6), d[1].addr(v6))
			}))
			for _, size := range []int{0, 1, 56, 1000, 1300} {
				must(p.Ping(ctx, size))(t)
			}
		}
	}
	testTCP(t, l, 1<<20)
	l.udpPort = tsharkUDPPort
	testUDP(t, l, 101)
	packets := must(capture.Stop())(t)

	file := filepath.Join(t.TempDir(), "underlay.pcap")
	f := must(os.Create(file))(t)
	check(t, lab.WritePcap(f, packets))
	check(t, f.Close())
	return file
}

// tshark returns a function that lists the frames of a capture that a display
// filter selects, one line each.
func tshark(t *testing.T, file string) func(filter string) []string {
	t.Helper()
	path := must(exec.LookPath("tshark"))(t)
	return func(filter string) []string {
		t.Helper()
		cmd := exec.CommandContext(within(t, time.Minute), path, "-n", "-r", file, "-Y", filter,
			"-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
			// Retransmissions and the like are the streams' affair, not the
			// encapsulation's.
			"-o", "tcp.analyze_sequence_numbers:FALSE",
			// The content is random: a dissector that guesses would find
			// protocols in it, and call them malformed.
			"-d", "tcp.port==1-65535,data", "-d", fmt.Sprintf("udp.port==%d,data", tsharkUDPPort),
			"-T", "fields", "-e", "frame.number", "-e", "frame.protocols", "-e", "_ws.expert.message", "-e", "_ws.col.Info")
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("tshark -Y %q: %v: %s", filter, err, errs.String())
		}
		return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
	}
}
