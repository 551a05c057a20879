// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"kohaku/conf"
)

// Verdict is what is to become of a device.
type Verdict string

// The verdicts.
const (
	// Take: ours comes in its place.
	Take Verdict = "take over"
	// Remove: it was of this overlay, and could never have worked; what comes in
	// its place is for the next registration to say.
	Remove Verdict = "remove"
	// Leave: it is not of this overlay and does not disturb.
	Leave Verdict = "leave alone"
	// Blocks: nothing is done before a person has decided about it.
	Blocks Verdict = "in the way"
)

// Step is one device with what is to become of it.
type Step struct {
	Device
	Verdict Verdict
	ID      int       // of the runner; 0 when there is none
	Plan    conf.Plan // that its addresses are by; not valid when not known
	Why     string    // a sentence's worth; what to do when it is in the way
}

// Plan is what is to become of all kernel VXLAN devices of a machine.
type Plan []Step

// Changes are the steps that change something.
func (p Plan) Changes() []Step {
	return slices.DeleteFunc(slices.Clone(p), func(s Step) bool { return s.Verdict != Take && s.Verdict != Remove })
}

// Err is a *BlockedError when a device is in the way, else nil.
func (p Plan) Err() error {
	blocking := slices.DeleteFunc(slices.Clone(p), func(s Step) bool { return s.Verdict != Blocks })
	if len(blocking) == 0 {
		return nil
	}
	return &BlockedError{blocking}
}

// BlockedError says which devices are in the way. None was touched.
type BlockedError struct{ Steps []Step }

func (e *BlockedError) Error() string {
	var each []string
	for _, s := range e.Steps {
		each = append(each, fmt.Sprintf("the kernel VXLAN device %s is in the way: %s", s.Device, s.Why))
	}
	return strings.Join(each, "; ") + "; nothing was touched"
}

// unusable says why no tunnel can have this remote, "" when one can.
func unusable(d Device, overlay netip.Prefix) string {
	switch r := d.Remote; {
	case !r.IsValid() || r.IsUnspecified():
		return "it has no remote"
	case r.IsMulticast():
		return fmt.Sprintf("its remote %s is a multicast group, not a machine", r)
	case r.IsLoopback():
		return fmt.Sprintf("its remote %s is this machine itself", r)
	case r == d.Local:
		return fmt.Sprintf("its remote %s is its own local address", r)
	case overlay.IsValid() && overlay.Contains(r):
		return fmt.Sprintf("its remote %s lies inside the overlay", r)
	}
	return ""
}

// other judges a device that is not of this overlay.
func other(d Device, port uint16, why string) Step {
	if d.Up && d.Port == port {
		return Step{Device: d, Verdict: Blocks, Why: fmt.Sprintf("%s, and it holds UDP port %d, which two cannot have "+
			"(end it with `ip link delete %s`, or set another vxlan_port on the Host and on every Runner)", why, port, d.Name)}
	}
	return Step{Device: d, Verdict: Leave, Why: why}
}

// ForHost judges the devices of a Host with these settings. A device is of the
// overlay if it is called vxkrN and has the VNI of runner N.
func ForHost(devices []Device, o conf.HostOverlay) Plan {
	var p Plan
	for _, d := range devices {
		p = append(p, forHost(d, o))
	}
	return p
}

func forHost(d Device, o conf.HostOverlay) Step {
	id, named := conf.RunnerIDOfDevice(d.Name)
	switch {
	case !named:
		return other(d, o.VXLANPort, "it is not one of the overlay")
	case d.Metadata:
		return other(d, o.VXLANPort, "it is not one of the overlay, which has no external ones")
	case id > o.Subnet.MaxRunners():
		return other(d, o.VXLANPort, fmt.Sprintf("its name means runner %d, and the subnet %s has room for %d", id, o.Subnet, o.Subnet.MaxRunners()))
	case d.VNI != o.VXLANID+uint32(id):
		hint := ""
		if d.VNI > uint32(id) {
			hint = fmt.Sprintf("; if it is of the overlay, set vxlan_id = %d in host.toml", d.VNI-uint32(id))
		}
		return other(d, o.VXLANPort, fmt.Sprintf("its name means runner %d, whose VNI is %d by host.toml%s", id, o.VXLANID+uint32(id), hint))
	}
	s := Step{Device: d, ID: id, Plan: o.Subnet, Verdict: Blocks}
	want := netip.PrefixFrom(o.Subnet.HostOn(id), o.Subnet.Subnet(id).Bits())
	if d.Port != o.VXLANPort {
		s.Why = fmt.Sprintf("by host.toml the UDP port is %d; set vxlan_port = %d there, since the Runners use it", o.VXLANPort, d.Port)
		return s
	}
	if has := d.addrs4(); len(has) > 0 && !slices.Contains(has, want) {
		s.Why = fmt.Sprintf("it has the address %s, and by host.toml it would be %s; set subnet to the one that the cluster runs with", has[0], want)
		return s
	}
	if why := unusable(d, o.Subnet.Overlay()); why != "" {
		s.Verdict, s.Why = Remove, why+": the tunnel never worked, and the runner will register anew"
		return s
	}
	s.Verdict, s.Why = Take, fmt.Sprintf("as runner %d with %s; the runner at %s gets this id when it registers", id, want, d.Remote)
	return s
}

// ForRunner judges the devices of a Runner with these settings. The one of the
// overlay is called vxlan0 and is a port of kohaku-overlay, whose address tells the
// id; without that the Host has to.
func ForRunner(devices []Device, bridge Bridge, o conf.RunnerOverlay) Plan {
	port := uint16(0)
	for _, d := range devices {
		if d.Name == conf.RunnerTunnelDevice {
			port = d.Port
		}
	}
	if o.VXLANPort != nil {
		port = *o.VXLANPort
	} else if port == 0 {
		port = conf.DefaultHost().Overlay.VXLANPort
	}
	var p Plan
	for _, d := range devices {
		if d.Name == conf.RunnerTunnelDevice {
			p = append(p, forRunner(d, bridge, o))
		} else {
			p = append(p, other(d, port, "it is not one of the overlay"))
		}
	}
	return p
}

func forRunner(d Device, bridge Bridge, o conf.RunnerOverlay) Step {
	s := Step{Device: d, Verdict: Blocks}
	switch {
	case d.Metadata || d.Master != conf.BridgeDevice:
		return notInBridge(d)
	case o.VXLANPort != nil && *o.VXLANPort != d.Port:
		s.Why = fmt.Sprintf("by runner.toml the UDP port is %d; remove vxlan_port there, or set it to %d", *o.VXLANPort, d.Port)
		return s
	}
	plan, id, known := infer(d, bridge, o)
	if known && o.VXLANID != nil && d.VNI != *o.VXLANID+uint32(id) {
		s.Why = fmt.Sprintf("the bridge's address is that of runner %d, whose VNI is %d by runner.toml; remove vxlan_id there, or set it to %d",
			id, *o.VXLANID+uint32(id), d.VNI-uint32(id))
		return s
	}
	overlay := netip.Prefix{}
	if known {
		s.ID, s.Plan, overlay = id, plan, plan.Overlay()
	}
	if why := unusable(d, overlay); why != "" {
		s.Verdict, s.Why = Remove, why+": the tunnel never worked, and is made anew when the Host answers"
		return s
	}
	s.Verdict = Take
	if known {
		s.Why = fmt.Sprintf("as runner %d with %s", id, netip.PrefixFrom(plan.Gateway(id), plan.Subnet(id).Bits()))
	} else {
		s.Why = fmt.Sprintf("when the Host answers: %s has no address that tells which runner this is", conf.BridgeDevice)
	}
	return s
}

// ForJoined judges the devices of a Runner whose overlay has the VNIs base+1 to
// base+runners, and UDP port port.
func ForJoined(devices []Device, base uint32, runners int, port uint16) Plan {
	var p Plan
	for _, d := range devices {
		s := Step{Device: d, Verdict: Blocks}
		switch {
		case d.Name != conf.RunnerTunnelDevice:
			s = other(d, port, "it is not one of the overlay")
		case d.Metadata || d.Master != conf.BridgeDevice:
			s = notInBridge(d)
		case d.VNI <= base || d.VNI > base+uint32(runners):
			s.Why = fmt.Sprintf("its VNI is none of this overlay's, which are %d to %d, and it has the name that the Runner's tunnel must have "+
				"(if nobody needs it: ip link delete %s)", base+1, base+uint32(runners), d.Name)
		default:
			s.Verdict, s.Why = Take, "for the tunnel of this overlay"
		}
		p = append(p, s)
	}
	return p
}

func notInBridge(d Device) Step {
	return Step{Device: d, Verdict: Blocks, Why: fmt.Sprintf("it is no port of %s, so not one of the overlay, and has the name that the Runner's tunnel must have "+
		"(if nobody needs it: ip link delete %s)", conf.BridgeDevice, d.Name)}
}

// infer finds the plan and the id that a Runner's end was made by: of the plan in
// its settings, the one that the route into the overlay tells, and the default one,
// the first by which the bridge's address is that of a gateway.
func infer(d Device, bridge Bridge, o conf.RunnerOverlay) (plan conf.Plan, id int, ok bool) {
	for _, gateway := range bridge.Addrs {
		if !gateway.Addr().Is4() {
			continue
		}
		var plans []conf.Plan
		if o.Subnet != nil {
			plans = append(plans, *o.Subnet)
		} else {
			for _, r := range bridge.Routes {
				text := fmt.Sprintf("%s/%d/%d/%d", r.Dst.Addr(), r.Dst.Bits(), gateway.Bits()-r.Dst.Bits(), 32-gateway.Bits())
				if p, err := conf.ParsePlan(text); err == nil {
					if id, ok := p.RunnerOf(gateway.Addr()); ok && r.Via == p.HostOn(id) {
						plans = append(plans, p)
					}
				}
			}
			plans = append(plans, conf.DefaultHost().Overlay.Subnet)
		}
		for _, p := range plans {
			id, ok := p.RunnerOf(gateway.Addr())
			if ok && p.Gateway(id) == gateway.Addr() && p.Subnet(id).Bits() == gateway.Bits() && d.VNI > uint32(id) {
				return p, id, true
			}
		}
	}
	return conf.Plan{}, 0, false
}
