// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"kohaku/conf"
	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
)

var k link.Kernel

var plan = conf.MustParsePlan("10.0.0.0/8/8/16")

const machineID = "0123456789abcdef0123456789abcdef"

// twice asserts that an operation changes something the first time and nothing
// the second time.
func twice(t *testing.T, what string, f func() (bool, error)) {
	t.Helper()
	for i, want := range []bool{true, false} {
		if changed, err := f(); err != nil || changed != want {
			t.Fatalf("%s, time %d: changed %v, %v; want %v", what, i+1, changed, err, want)
		}
	}
}

func bridge(t *testing.T, name string) {
	t.Helper()
	if _, err := k.EnsureBridge(name, link.StableMAC(machineID, name)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.EnsureUp(name); err != nil {
		t.Fatal(err)
	}
}

func addTAP(t *testing.T, name string) {
	t.Helper()
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: name}, Mode: netlink.TUNTAP_MODE_TAP}
	if err := netlink.LinkAdd(tap); err != nil {
		t.Fatal(err)
	}
}

func device(t *testing.T, name string) link.Info {
	t.Helper()
	info, err := k.Device(name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestBridge(t *testing.T) {
	linktest.Namespace(t)
	mac := link.StableMAC(machineID, "br")
	twice(t, "EnsureBridge", func() (bool, error) { return k.EnsureBridge("br", mac) })
	twice(t, "EnsureMTU", func() (bool, error) { return k.EnsureMTU("br", 1450) })
	twice(t, "EnsureUp", func() (bool, error) { return k.EnsureUp("br") })

	addTAP(t, "port")
	twice(t, "EnsureMaster", func() (bool, error) { return k.EnsureMaster("port", "br") })
	info := device(t, "br")
	if info.MAC.String() != mac.String() || info.MTU != 1450 || !info.Up || info.Type != "bridge" {
		t.Errorf("bridge with a port is %+v, want MAC %s, MTU 1450, up", info, mac)
	}
	if port := device(t, "port"); port.Master != info.Index || port.Type != "tap" {
		t.Errorf("port is %+v, want a tap with master %d", port, info.Index)
	}
}

func TestBridgeWithSpanningTree(t *testing.T) {
	linktest.Namespace(t)
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("link", "add", "name", "br", "address", link.StableMAC(machineID, "br").String(), "type", "bridge", "stp_state", "1", "forward_delay", "1500")
	mac := link.StableMAC(machineID, "br")
	twice(t, "EnsureBridge", func() (bool, error) { return k.EnsureBridge("br", mac) })
	text := run("-d", "link", "show", "dev", "br")
	for _, want := range []string{"forward_delay 0 ", "stp_state 0 "} {
		if !strings.Contains(text, want) {
			t.Errorf("the bridge lacks %q: %s", want, text)
		}
	}
}

func TestBridgeNameTaken(t *testing.T) {
	linktest.Namespace(t)
	addTAP(t, "br")
	if _, err := k.EnsureBridge("br", nil); err == nil || !strings.Contains(err.Error(), "type tuntap") {
		t.Errorf("error %v; want the type of the device in the way", err)
	}
	if _, err := k.EnsureHostAddressDevice("br", nil); err == nil {
		t.Error("a TAP was taken for the address device")
	}
}

func TestHostAddressDevice(t *testing.T) {
	linktest.Namespace(t)
	mac := link.StableMAC(machineID, conf.HostAddressDevice)
	twice(t, "EnsureHostAddressDevice", func() (bool, error) { return k.EnsureHostAddressDevice(conf.HostAddressDevice, mac) })
	info := device(t, conf.HostAddressDevice)
	if info.Type != "dummy" && info.Type != "bridge" || info.MAC.String() != mac.String() {
		t.Errorf("device %+v, want a dummy or a bridge with MAC %s", info, mac)
	}
}

func TestNoQueue(t *testing.T) {
	linktest.Namespace(t)
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "vxkr1"}, Mode: netlink.TUNTAP_MODE_TAP,
		Flags: netlink.TUNTAP_MULTI_QUEUE_DEFAULTS | netlink.TUNTAP_VNET_HDR, Queues: 2,
	}
	if err := netlink.LinkAdd(tap); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, f := range tap.Fds {
			f.Close()
		}
	}()
	twice(t, "EnsureNoQueue", func() (bool, error) { return k.EnsureNoQueue("vxkr1") })
	if _, err := k.EnsureUp("vxkr1"); err != nil {
		t.Fatal(err)
	}
	qdiscs, err := netlink.QdiscList(tap)
	if err != nil || len(qdiscs) != 1 || qdiscs[0].Type() != "noqueue" {
		t.Errorf("queueing disciplines of the device once it is up: %v, %v", qdiscs, err)
	}
}

func TestStableMAC(t *testing.T) {
	mac := link.StableMAC(machineID, "vxkr1")
	if mac[0]&3 != 2 {
		t.Errorf("%s is not a locally administered individual address", mac)
	}
	if got := link.StableMAC(machineID, "vxkr1"); got.String() != mac.String() {
		t.Errorf("%s, then %s", mac, got)
	}
	for _, other := range []net.HardwareAddr{link.StableMAC(machineID, "vxkr2"), link.StableMAC("x", "vxkr1")} {
		if other.String() == mac.String() {
			t.Errorf("two devices share %s", mac)
		}
	}
}

func TestAddrs(t *testing.T) {
	linktest.Namespace(t)
	bridge(t, "br")
	old, now := netip.MustParsePrefix("10.3.0.1/16"), netip.MustParsePrefix("10.1.0.1/16")
	foreign := netip.MustParsePrefix("192.0.2.1/24")
	stale := func(p netip.Prefix) bool { return plan.Overlay().Contains(p.Addr()) }
	for _, p := range []netip.Prefix{old, foreign} {
		if _, err := k.EnsureAddrs("br", []netip.Prefix{p}, nil); err != nil {
			t.Fatal(err)
		}
	}
	twice(t, "EnsureAddrs", func() (bool, error) { return k.EnsureAddrs("br", []netip.Prefix{now}, stale) })
	have := slices.DeleteFunc(device(t, "br").Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
	slices.SortFunc(have, netip.Prefix.Compare)
	if !slices.Equal(have, []netip.Prefix{now, foreign}) {
		t.Errorf("addresses %v, want %v and the foreign %v", have, now, foreign)
	}
}

func TestSameAddressOtherLength(t *testing.T) {
	linktest.Namespace(t)
	bridge(t, "br")
	stale := func(p netip.Prefix) bool { return plan.Overlay().Contains(p.Addr()) }
	for _, text := range []string{"10.0.0.1/8", "10.0.0.1/12"} {
		want := netip.MustParsePrefix(text)
		if _, err := k.EnsureAddrs("br", []netip.Prefix{want}, stale); err != nil {
			t.Fatal(err)
		}
		have := slices.DeleteFunc(device(t, "br").Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
		if !slices.Equal(have, []netip.Prefix{want}) {
			t.Errorf("addresses %v, want only %v", have, want)
		}
	}
}

func TestAliasOnDevice(t *testing.T) {
	linktest.Namespace(t)
	addTAP(t, "vxkr1")
	if !device(t, "vxkr1").Bare() {
		t.Error("a new TAP is not bare")
	}
	want := link.Alias{VNI: 101, Runner: "node1", Machine: machineID, Subnet: plan, ID: 1}
	twice(t, "EnsureAlias", func() (bool, error) { return k.EnsureAlias("vxkr1", want) })
	info := device(t, "vxkr1")
	if got, err := link.ParseAlias(info.Alias); err != nil || got != want {
		t.Errorf("the device says %q: %+v, %v", info.Alias, got, err)
	}
	if info.Bare() {
		t.Error("a TAP with an alias is bare")
	}
}

func TestRoute(t *testing.T) {
	linktest.Namespace(t)
	bridge(t, "br")
	if _, err := k.EnsureAddrs("br", []netip.Prefix{netip.MustParsePrefix("10.1.0.1/16")}, nil); err != nil {
		t.Fatal(err)
	}
	br, err := netlink.LinkByName("br")
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, _ := net.ParseCIDR("192.0.2.0/24")
	err = netlink.RouteAdd(&netlink.Route{LinkIndex: br.Attrs().Index, Dst: foreign, Gw: net.ParseIP("10.1.0.9")})
	if err != nil {
		t.Fatal(err)
	}
	via := plan.HostOn(1)
	if _, err := k.EnsureRoute("br", netip.MustParsePrefix("10.128.0.0/9"), via); err != nil {
		t.Fatal(err)
	}
	twice(t, "EnsureRoute", func() (bool, error) { return k.EnsureRoute("br", plan.Overlay(), via) })

	uses, err := k.Uses(func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	var routes []string
	for _, u := range uses {
		if u.Route && u.Device == "br" && u.Prefix.Addr().Is4() {
			routes = append(routes, u.Text)
		}
	}
	slices.Sort(routes)
	want := []string{"10.0.0.0/8 via 10.1.0.254", "10.1.0.0/16", "192.0.2.0/24 via 10.1.0.9"}
	if diff := cmp.Diff(want, routes); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
}

func TestPathTo(t *testing.T) {
	linktest.Namespace(t)
	bridge(t, "eth0")
	if _, err := k.EnsureMTU("eth0", 1400); err != nil {
		t.Fatal(err)
	}
	own := netip.MustParsePrefix("192.168.88.53/24")
	if _, err := k.EnsureAddrs("eth0", []netip.Prefix{own}, nil); err != nil {
		t.Fatal(err)
	}
	got, err := k.PathTo(netip.MustParseAddr("192.168.88.61"))
	if want := (link.Path{Local: own.Addr(), Device: "eth0", MTU: 1400}); err != nil || got != want {
		t.Errorf("PathTo = %+v, %v; want %+v", got, err, want)
	}
	if got, err := k.PathTo(own.Addr()); err != nil || !got.Own {
		t.Errorf("PathTo the machine itself = %+v, %v", got, err)
	}
	_, err = k.PathTo(netip.MustParseAddr("198.51.100.1"))
	if err == nil || !strings.Contains(err.Error(), "198.51.100.1") {
		t.Errorf("error %v; want one that names the destination", err)
	}
	if mtu, ok := k.DefaultMTU(); ok {
		t.Errorf("DefaultMTU = %d without a default route", mtu)
	}
	br, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: br.Attrs().Index, Gw: net.ParseIP("192.168.88.1")}); err != nil {
		t.Fatal(err)
	}
	if mtu, ok := k.DefaultMTU(); !ok || mtu != 1400 {
		t.Errorf("DefaultMTU = %d, %v; want 1400", mtu, ok)
	}
}

func TestOverlap(t *testing.T) {
	linktest.Namespace(t)
	ours := func(name string) bool { return name == "ours" }
	bridge(t, "ours")
	bridge(t, "eth0")
	set := func(dev, addr string) {
		t.Helper()
		if _, err := k.EnsureAddrs(dev, []netip.Prefix{netip.MustParsePrefix(addr)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	check := func() error {
		t.Helper()
		uses, err := k.Uses(ours)
		if err != nil {
			t.Fatal(err)
		}
		return link.CheckOverlap(plan, uses)
	}
	set("ours", "10.0.0.1/8")
	set("eth0", "192.168.1.2/24")
	if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("192.168.1.1")}); err != nil {
		t.Fatal(err)
	}
	if err := check(); err != nil {
		t.Fatalf("our own device and the default route count as a conflict: %v", err)
	}
	set("eth0", "10.0.2.15/24")
	err := check()
	overlap, ok := errors.AsType[*link.OverlapError](err)
	if !ok {
		t.Fatalf("error %v; want an OverlapError", err)
	}
	for _, part := range []string{"10.0.0.0/8", "address 10.0.2.15/24 on eth0", "route 10.0.2.0/24 on eth0", overlap.Suggest.String()} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	uses, _ := k.Uses(ours)
	if err := link.CheckOverlap(overlap.Suggest, uses); err != nil {
		t.Errorf("the suggested %s does not fit either: %v", overlap.Suggest, err)
	}
}

func TestSysctl(t *testing.T) {
	linktest.Namespace(t)
	before, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(before)) == "1" {
		if _, err := k.EnsureSysctl("net/ipv4/ip_forward", "0"); err != nil {
			t.Fatal(err)
		}
	}
	twice(t, "EnsureSysctl", func() (bool, error) { return k.EnsureSysctl("net/ipv4/ip_forward", "1") })
	if _, err := k.EnsureSysctl("net/ipv4/no_such_setting", "1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}

func TestMissingDevice(t *testing.T) {
	linktest.Namespace(t)
	_, err := k.EnsureUp("vxkr1")
	if !errors.Is(err, link.ErrNotFound) || !strings.Contains(err.Error(), "vxkr1") {
		t.Errorf("error %v; want ErrNotFound with the device's name", err)
	}
	if err := k.Delete("vxkr1"); err != nil {
		t.Errorf("deleting nothing: %v", err)
	}
	addTAP(t, "vxkr1")
	if err := k.Delete("vxkr1"); err != nil {
		t.Error(err)
	}
	if _, err := k.Device("vxkr1"); !errors.Is(err, link.ErrNotFound) {
		t.Errorf("after Delete: %v", err)
	}
}
