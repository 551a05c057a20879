// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"kohaku/conf"
	"kohaku/internal/dataplane"
	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
	"kohaku/tun"
)

// run runs a line of ip(8) in the test's namespace.
func run(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", line, err, out)
	}
	return string(out)
}

// dumpOf is everything that a take-over could change, as ip(8) prints it, without
// the numbers that the kernel gives.
func dumpOf(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, device := range strings.Fields("vxkr1 vxkr2 vxlan0 kohaku-overlay other far") {
		if _, err := netlink.LinkByName(device); err != nil {
			continue
		}
		for line := range strings.Lines(run(t, "-d link show dev "+device) + run(t, "-4 addr show dev "+device)) {
			if _, after, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, " ") {
				line = after
			}
			// A bridge's timers and the ids of its ports.
			if strings.Contains(line, "bridge") {
				line = strings.Fields(line)[0] + "\n"
			}
			b.WriteString(line)
		}
	}
	b.WriteString(run(t, "-4 route show table all"))
	return b.String()
}

// host makes a Host's kernel devices, and others beside them.
func host(t *testing.T) {
	t.Helper()
	linktest.Namespace(t)
	for _, line := range []string{
		"link add eth0 type veth peer name peer0", "addr add 192.168.88.53/24 dev eth0", "link set eth0 up", "link set peer0 up",
		"link add vxkr1 type vxlan id 101 local 192.168.88.53 remote 192.168.88.61 dstport 4789 nolearning",
		"link add vxkr2 type vxlan id 102 local 192.168.88.53 remote 192.168.88.62 dstport 4789 nolearning ttl 9 tos 0x10 dev eth0",
		"link add far type vxlan id 7 remote 192.168.88.99 dstport 8472",
		"link set vxkr1 mtu 1450 up", "link set vxkr2 mtu 1400 up alias hello txqueuelen 77", "link set far up",
		"addr add 10.1.0.254/16 dev vxkr1", "addr add 10.2.0.254/16 dev vxkr2", "addr add 192.0.2.1/24 dev vxkr2", "addr add fd00::1/64 dev vxkr2 nodad",
		"route add 198.51.100.0/24 via 10.2.0.7 dev vxkr2",
	} {
		run(t, line)
	}
}

func TestFind(t *testing.T) {
	host(t)
	found, err := Kernel{}.Find()
	if err != nil || len(found) != 3 {
		t.Fatalf("%+v, %v", found, err)
	}
	d := found[2]
	if d.Name != "vxkr2" || d.VNI != 102 || d.Remote != addrOf("192.168.88.62") || d.Local != addrOf("192.168.88.53") || d.Port != 4789 || !d.Up ||
		d.MTU != 1400 || len(d.MAC) != 6 || d.Master != "" || d.Metadata || fmt.Sprint(d.Addrs) != "[10.2.0.254/16 192.0.2.1/24 fd00::1/64]" {
		t.Errorf("%+v", d)
	}
	if d := found[0]; d.Name != "far" || d.Port != 8472 {
		t.Errorf("%+v", d)
	}
}

func TestBridge(t *testing.T) {
	linktest.Namespace(t)
	if b, err := (Kernel{}).Bridge("kohaku-overlay"); err != nil || len(b.Addrs) != 0 {
		t.Errorf("%+v, %v", b, err)
	}
	for _, line := range []string{
		"link add kohaku-overlay type bridge", "link set kohaku-overlay up", "addr add 10.1.0.1/16 dev kohaku-overlay", "route add 10.0.0.0/8 via 10.1.0.254",
		"link add vxlan0 type vxlan id 101 remote 2001:db8::1 dstport 4789 nolearning", "link set vxlan0 master kohaku-overlay",
	} {
		run(t, line)
	}
	b, err := Kernel{}.Bridge("kohaku-overlay")
	if want := (Route{netip.MustParsePrefix("10.0.0.0/8"), addrOf("10.1.0.254")}); err != nil || fmt.Sprint(b.Addrs) != "[10.1.0.1/16]" || len(b.Routes) != 1 || b.Routes[0] != want {
		t.Errorf("%+v, %v", b, err)
	}
	p, err := PlanRunner(Kernel{}, conf.DefaultRunner().Overlay)
	if err != nil || len(p) != 1 || p[0].Verdict != Take || p[0].ID != 1 || p[0].Remote != addrOf("2001:db8::1") || p[0].Up {
		t.Errorf("%+v, %v", p, err)
	}
}

// What was removed comes back as it was; others are not touched at any time.
func TestRemoveAndRestore(t *testing.T) {
	host(t)
	before := dumpOf(t)
	plan, err := PlanHost(Kernel{}, conf.DefaultHost().Overlay)
	if err != nil || plan.Err() != nil {
		t.Fatal(err, plan.Err())
	}
	if after := dumpOf(t); after != before {
		t.Errorf("a plan changed something: before\n%s\nafter\n%s", before, after)
	}
	var devices []Device
	for _, s := range plan.Changes() {
		devices = append(devices, s.Device)
	}
	if len(devices) != 2 {
		t.Fatalf("changes %+v", plan.Changes())
	}
	restore, err := Kernel{}.Remove(devices)
	if err != nil {
		t.Fatal(err)
	}
	left, err := Kernel{}.Find()
	if err != nil || len(left) != 1 || left[0].Name != "far" {
		t.Errorf("left are %+v, %v", left, err)
	}
	// The port is free at once.
	c, err := net.ListenPacket("udp", ":4789")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if after := dumpOf(t); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// A take-over that fails halfway is undone: ours go, theirs are as they were.
func TestUndo(t *testing.T) {
	host(t)
	before := dumpOf(t)
	plan, err := PlanHost(Kernel{}, conf.DefaultHost().Overlay)
	if err != nil {
		t.Fatal(err)
	}
	machine := dataplane.System{Engine: conf.DefaultHost().Engine, Log: slog.New(slog.DiscardHandler)}
	old, err := Begin(Kernel{}, machine, link.Kernel{}, slog.New(slog.DiscardHandler), plan)
	if err != nil || len(old.Steps) != 2 {
		t.Fatalf("%+v, %v", old, err)
	}
	// Ours came for one of them, and then it failed.
	d, err := dataplane.Open(machine, link.Kernel{}, slog.New(slog.DiscardHandler), dataplane.Device{Name: "vxkr1", MTU: 1450})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	err = old.Undo(syscall.ENOMEM)
	if undone, ok := errors.AsType[*UndoneError](err); !ok || undone.Err != nil || !errors.Is(err, syscall.ENOMEM) || !strings.Contains(err.Error(), "as they were") {
		t.Errorf("%v", err)
	}
	if after := dumpOf(t); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	if err := (Handover{}).Undo(syscall.EPERM); err != syscall.EPERM {
		t.Errorf("nothing to undo: %v", err)
	}
}

// Where no device of ours can be made, or one is in the way, nothing is touched.
func TestBeginRefuses(t *testing.T) {
	host(t)
	before := dumpOf(t)
	o := conf.DefaultHost().Overlay
	plan, err := PlanHost(Kernel{}, o)
	if err != nil {
		t.Fatal(err)
	}
	cannot := cannotOpen{dataplane.System{}, syscall.ENODEV}
	if _, err := Begin(Kernel{}, cannot, link.Kernel{}, slog.Default(), plan); !errors.Is(err, syscall.ENODEV) || !strings.Contains(err.Error(), "not taken over") {
		t.Errorf("no device can be made: %v", err)
	}
	o.VXLANPort = 8472
	if plan, err = PlanHost(Kernel{}, o); err != nil {
		t.Fatal(err)
	}
	_, err = Begin(Kernel{}, dataplane.System{}, link.Kernel{}, slog.Default(), plan)
	blocked, ok := errors.AsType[*BlockedError](err)
	if !ok || len(blocked.Steps) != 3 || !strings.Contains(err.Error(), "far (VNI 7, remote 192.168.88.99, UDP port 8472)") {
		t.Errorf("in the way: %v", err)
	}
	if after := dumpOf(t); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}

// cannotOpen is a machine that makes no devices.
type cannotOpen struct {
	dataplane.System
	err error
}

func (c cannotOpen) OpenDevice(dataplane.Device) (tun.Device, error) { return nil, c.err }
