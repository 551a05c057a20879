// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"kohaku/conf"
)

func addrOf(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(text ...string) (out []netip.Prefix) {
	for _, s := range text {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// vxkr1 and vxlan0 as the guide describes them.
var (
	vxkr1 = Device{Name: "vxkr1", VNI: 101, Remote: addrOf("192.168.88.61"), Local: addrOf("192.168.88.53"), Port: 4789, Up: true, MTU: 1450,
		Addrs: prefixes("10.1.0.254/16")}
	vxlan0 = Device{Name: "vxlan0", VNI: 101, Remote: addrOf("192.168.88.53"), Local: addrOf("192.168.88.61"), Port: 4789, Up: true, MTU: 1450,
		Master: "kohaku-overlay"}
)

func with(d Device, change func(*Device)) Device {
	change(&d)
	return d
}

func TestForHost(t *testing.T) {
	o := conf.DefaultHost().Overlay
	for name, c := range map[string]struct {
		d    Device
		want Verdict
		id   int
		why  string
	}{
		"as the guide has it": {vxkr1, Take, 1, "as runner 1 with 10.1.0.254/16; the runner at 192.168.88.61"},
		"id 10":               {with(vxkr1, func(d *Device) { d.Name, d.VNI, d.Addrs = "vxkra", 110, nil }), Take, 10, "runner 10 with 10.10.0.254/16"},
		"down":                {with(vxkr1, func(d *Device) { d.Up = false }), Take, 1, ""},
		"IPv6 underlay":       {with(vxkr1, func(d *Device) { d.Remote = addrOf("2001:db8::1") }), Take, 1, "2001:db8::1"},
		"another's address, too": {with(vxkr1, func(d *Device) { d.Addrs = prefixes("192.0.2.9/24", "10.1.0.254/16", "fd00::1/64") }),
			Take, 1, ""},

		"another name": {with(vxkr1, func(d *Device) { d.Name = "flannel.1" }), Blocks, 0, "holds UDP port 4789"},
		"another name and port": {with(vxkr1, func(d *Device) { d.Name, d.Port = "flannel.1", 8472 }),
			Leave, 0, "not one of the overlay"},
		"another name, down":       {with(vxkr1, func(d *Device) { d.Name, d.Up = "flannel.1", false }), Leave, 0, ""},
		"another VNI":              {with(vxkr1, func(d *Device) { d.VNI = 501 }), Blocks, 0, "whose VNI is 101 by host.toml; if it is of the overlay, set vxlan_id = 500"},
		"another VNI and port":     {with(vxkr1, func(d *Device) { d.VNI, d.Port = 501, 8472 }), Leave, 0, "whose VNI is 101"},
		"VNI of another name":      {with(vxkr1, func(d *Device) { d.Name = "vxkr2" }), Blocks, 0, "VNI is 102"},
		"upper case":               {with(vxkr1, func(d *Device) { d.Name = "vxkrA" }), Blocks, 0, "not one of the overlay"},
		"more than there can be":   {with(vxkr1, func(d *Device) { d.Name, d.VNI = "vxkr74", 356 }), Blocks, 0, "room for 255"},
		"external":                 {with(vxkr1, func(d *Device) { d.Metadata = true }), Blocks, 0, "external"},
		"another port of ours":     {with(vxkr1, func(d *Device) { d.Port = 8472 }), Blocks, 1, "set vxlan_port = 8472"},
		"another subnet":           {with(vxkr1, func(d *Device) { d.Addrs = prefixes("10.128.64.254/18") }), Blocks, 1, "it has the address 10.128.64.254/18, and by host.toml it would be 10.1.0.254/16"},
		"remote is loopback":       {with(vxkr1, func(d *Device) { d.Remote = addrOf("127.0.0.1") }), Remove, 1, "remote 127.0.0.1 is this machine itself"},
		"no remote":                {with(vxkr1, func(d *Device) { d.Remote = netip.Addr{} }), Remove, 1, "no remote"},
		"remote is a group":        {with(vxkr1, func(d *Device) { d.Remote = addrOf("239.0.0.1") }), Remove, 1, "multicast"},
		"remote is in the overlay": {with(vxkr1, func(d *Device) { d.Remote = addrOf("10.2.0.1") }), Remove, 1, "inside the overlay"},
		"remote is local":          {with(vxkr1, func(d *Device) { d.Remote = d.Local }), Remove, 1, "its own local"},
	} {
		p := ForHost([]Device{c.d}, o)
		if len(p) != 1 || p[0].Verdict != c.want || p[0].ID != c.id || !strings.Contains(p[0].Why, c.why) {
			t.Errorf("%s: %+v, want %q and id %d because of %q", name, p, c.want, c.id, c.why)
		}
		blocked, ok := errors.AsType[*BlockedError](p.Err())
		if ok != (c.want == Blocks) || ok && (!strings.Contains(blocked.Error(), c.d.Name) || !strings.Contains(blocked.Error(), "nothing was touched")) {
			t.Errorf("%s: %v", name, p.Err())
		}
		if n := len(p.Changes()); (n == 1) != (c.want == Take || c.want == Remove) {
			t.Errorf("%s: %d changes", name, n)
		}
	}
}

func TestForRunner(t *testing.T) {
	small := conf.MustParsePlan("10.128.0.0/12/6/14")
	wide := conf.MustParsePlan("172.16.0.0/12/8/12")
	id, other, port := uint32(100), uint32(200), uint16(8472)
	guide := Bridge{Addrs: prefixes("10.1.0.1/16"), Routes: []Route{{netip.MustParsePrefix("10.0.0.0/8"), addrOf("10.1.0.254")}}}
	for name, c := range map[string]struct {
		d      Device
		bridge Bridge
		o      conf.RunnerOverlay
		want   Verdict
		id     int
		plan   string
		why    string
	}{
		"as the guide has it": {vxlan0, guide, conf.RunnerOverlay{}, Take, 1, "10.0.0.0/8/8/16", "as runner 1 with 10.1.0.1/16"},
		"without a route":     {vxlan0, Bridge{Addrs: guide.Addrs}, conf.RunnerOverlay{}, Take, 1, "10.0.0.0/8/8/16", ""},
		"plan from the route": {vxlan0, Bridge{Addrs: prefixes("192.0.2.1/24", "10.128.64.1/18"), Routes: []Route{
			{netip.MustParsePrefix("10.0.0.0/8"), addrOf("10.128.64.2")}, {netip.MustParsePrefix("10.128.0.0/12"), addrOf("10.128.64.254")}}},
			conf.RunnerOverlay{}, Take, 1, small.String(), "10.128.64.1/18"},
		"plan from the settings": {with(vxlan0, func(d *Device) { d.VNI = 102 }), Bridge{Addrs: prefixes("172.16.32.1/20")},
			conf.RunnerOverlay{Subnet: &wide, VXLANID: &id}, Take, 2, wide.String(), ""},
		"another base":            {with(vxlan0, func(d *Device) { d.VNI = 501 }), guide, conf.RunnerOverlay{}, Take, 1, "10.0.0.0/8/8/16", ""},
		"no address":              {vxlan0, Bridge{}, conf.RunnerOverlay{}, Take, 0, "", "when the Host answers"},
		"an address of another":   {vxlan0, guide, conf.RunnerOverlay{Subnet: &small}, Take, 0, "", "when the Host answers"},
		"not the gateway's":       {vxlan0, Bridge{Addrs: prefixes("10.1.0.7/16")}, conf.RunnerOverlay{}, Take, 0, "", ""},
		"in no bridge":            {with(vxlan0, func(d *Device) { d.Master = "" }), guide, conf.RunnerOverlay{}, Blocks, 0, "", "no port of kohaku-overlay"},
		"in another bridge":       {with(vxlan0, func(d *Device) { d.Master = "br0" }), guide, conf.RunnerOverlay{}, Blocks, 0, "", "no port of kohaku-overlay"},
		"another port":            {vxlan0, guide, conf.RunnerOverlay{VXLANPort: &port}, Blocks, 0, "", "set it to 4789"},
		"VNI not by settings":     {vxlan0, guide, conf.RunnerOverlay{VXLANID: &other}, Blocks, 0, "", "set it to 100"},
		"remote is loopback":      {with(vxlan0, func(d *Device) { d.Remote = addrOf("127.0.0.1") }), guide, conf.RunnerOverlay{}, Remove, 1, "10.0.0.0/8/8/16", "127.0.0.1"},
		"foreign":                 {with(vxlan0, func(d *Device) { d.Name = "flannel.1" }), guide, conf.RunnerOverlay{}, Blocks, 0, "", "holds UDP port 4789"},
		"foreign on another port": {with(vxlan0, func(d *Device) { d.Name, d.Port = "flannel.1", 8472 }), guide, conf.RunnerOverlay{}, Leave, 0, "", ""},
	} {
		p := ForRunner([]Device{c.d}, c.bridge, c.o)
		plan := ""
		if p[0].Plan.IsValid() {
			plan = p[0].Plan.String()
		}
		if len(p) != 1 || p[0].Verdict != c.want || p[0].ID != c.id || plan != c.plan || !strings.Contains(p[0].Why, c.why) {
			t.Errorf("%s: %+v, want %q, id %d of %q because of %q", name, p, c.want, c.id, c.plan, c.why)
		}
	}
	if p := ForRunner([]Device{with(vxlan0, func(d *Device) { d.Name = "flannel.1" })}, guide, conf.RunnerOverlay{VXLANPort: &port}); p.Err() != nil {
		t.Error(p.Err())
	}
}

func TestForJoined(t *testing.T) {
	for name, c := range map[string]struct {
		d    Device
		want Verdict
		why  string
	}{
		"ours":               {vxlan0, Take, ""},
		"ours, another id":   {with(vxlan0, func(d *Device) { d.VNI = 355 }), Take, ""},
		"broken":             {with(vxlan0, func(d *Device) { d.Remote = addrOf("127.0.0.1") }), Take, ""},
		"another overlay's":  {with(vxlan0, func(d *Device) { d.VNI = 356 }), Blocks, "none of this overlay's, which are 101 to 355"},
		"the base itself":    {with(vxlan0, func(d *Device) { d.VNI = 100 }), Blocks, "101 to 355"},
		"in no bridge":       {with(vxlan0, func(d *Device) { d.Master = "" }), Blocks, "no port of"},
		"foreign":            {with(vxlan0, func(d *Device) { d.Name = "x" }), Blocks, "holds UDP port 4789"},
		"foreign, elsewhere": {with(vxlan0, func(d *Device) { d.Name, d.Port = "x", 1 }), Leave, ""},
	} {
		if p := ForJoined([]Device{c.d}, 100, 255, 4789); p[0].Verdict != c.want || !strings.Contains(p[0].Why, c.why) {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
