// SPDX-License-Identifier: Apache-2.0

package conf

import (
	"fmt"
	"net/netip"
	"time"
)

const (
	maxVNI = 1<<24 - 1 // RFC 7348 section 5: 24 bits

	// Inner MTU: at least what every IPv4 host must take (RFC 1122 section
	// 3.3.3), at most the largest MTU of a TAP device (65535 - 14, tun_net_init in
	// drivers/net/tun.c) less the 50 bytes of encapsulation.
	minMTU, maxMTU = 576, 65471
)

func subnetField(dst *Plan) field {
	return textField("overlay.subnet", dst, "10.0.0.0/8/8/16", parsePlanSetting, Plan.String)
}

func vxlanIDField(dst *uint32) field {
	// The highest id that leaves room for one runner; the rule below knows the
	// plan and is stricter.
	return intField("overlay.vxlan_id", dst, fmt.Sprintf("0..%d", maxVNI-1), between(0, maxVNI-1))
}

func vxlanPortField(dst *uint16) field {
	return intField("overlay.vxlan_port", dst, "1..65535", between(1, 65535))
}

func mtuField(dst *int) field {
	return intField("overlay.mtu", dst, fmt.Sprintf("0 (find out) or %d..%d", minMTU, maxMTU),
		func(v int64) bool { return v == 0 || minMTU <= v && v <= maxMTU })
}

func engineFields(e *Engine, device func(string) (string, error)) []field {
	return []field{
		textField("engine.device", &e.Device, DeviceTAP, device, text),
		intField("engine.queues", &e.Queues, "0 (as many as help) or 1..64", between(0, 64)),
		textField("engine.fastpath", &e.FastPath, FastPathAuto, parseFastPath, text),
		textField("engine.linger", &e.Linger, "100us", parseLinger, time.Duration.String),
		intField("engine.nice", &e.Nice, "-20..19", between(-20, 19)),
		boolField("engine.anti_spoof", &e.AntiSpoof),
		intField("engine.ttl", &e.TTL, "0 (the system's default) or 1..255", between(0, 255)),
		tosField("engine.tos", &e.TOS),
		textField("engine.df", &e.DF, dfUnset, parseDF, formatDF),
		boolField("engine.zero_checksum6", &e.ZeroChecksum6),
		boolField("engine.offloads.tso", &e.Offloads.TSO),
		boolField("engine.offloads.uso", &e.Offloads.USO),
		boolField("engine.offloads.udp_gso", &e.Offloads.UDPGSO),
		boolField("engine.offloads.udp_gro", &e.Offloads.UDPGRO),
		boolField("engine.offloads.trust_kernel", &e.Offloads.TrustKernel),
	}
}

func (h *Host) schema() schema {
	fields := append([]field{
		textField("host.bind", &h.Host.Bind, "0.0.0.0:8000", parseBind, netip.AddrPort.String),
		textField("host.reachable_address", &h.Host.ReachableAddress, "192.168.88.53", parseUnderlay, formatAddr),
		textField("host.join", &h.Host.Join, JoinToken, parseJoin, text),
		textField("host.admin_socket", &h.Host.AdminSocket, runtimeDir+"/host.sock", parseAdminSocket, text),
		textField("host.state_dir", &h.Host.StateDir, defaultStateDir, parseDir, text),
		textField("host.log_level", &h.Host.LogLevel, "info", parseLevel, formatLevel),
		textField("host.metrics", &h.Host.Metrics, defaultHostMetrics, parseMetrics(defaultHostMetrics), formatMetrics),
		boolField("overlay.enabled", &h.Overlay.Enabled),
		subnetField(&h.Overlay.Subnet),
		vxlanIDField(&h.Overlay.VXLANID),
		vxlanPortField(&h.Overlay.VXLANPort),
		mtuField(&h.Overlay.MTU),
		textField("heartbeat.interval", &h.Heartbeat.Interval, "5s", parseInterval, time.Duration.String),
		intField("heartbeat.timeout_factor", &h.Heartbeat.TimeoutFactor, "2..1000", between(2, 1000)),
	}, engineFields(&h.Engine, parseDevice)...)
	rules := []rule{
		{[]string{"overlay.vxlan_id", "overlay.subnet"}, func() error {
			return vniRange(h.Overlay.VXLANID, h.Overlay.Subnet)
		}},
		{[]string{"host.reachable_address", "overlay.subnet", "overlay.enabled"}, func() error {
			return outside(h.Overlay.Enabled, h.Host.ReachableAddress, h.Overlay.Subnet)
		}},
		{[]string{"host.bind", "overlay.subnet", "overlay.enabled"}, func() error {
			return outside(h.Overlay.Enabled, h.Host.Bind.Addr(), h.Overlay.Subnet)
		}},
	}
	return schema{fields, rules, func() []field { return new(Runner).schema().fields }, "host.toml"}
}

func (r *Runner) schema() schema {
	const unset = "whatever the Host says"
	fields := append([]field{
		textField("runner.host", &r.Runner.Host, "192.168.88.53:8000", parseAPI, text),
		textField("runner.address", &r.Runner.Address, "192.168.88.61", parseUnderlay, formatAddr),
		textField("runner.name", &r.Runner.Name, "gpu-01", parseName, text),
		textField("runner.state_dir", &r.Runner.StateDir, defaultStateDir, parseDir, text),
		textField("runner.log_level", &r.Runner.LogLevel, "info", parseLevel, formatLevel),
		textField("runner.metrics", &r.Runner.Metrics, defaultRunnerMetrics, parseMetrics(defaultRunnerMetrics), formatMetrics),
		boolField("overlay.enabled", &r.Overlay.Enabled),
		textField("overlay.network_name", &r.Overlay.NetworkName, DockerNetwork, parseNetworkName, text),
		optional(&r.Overlay.Subnet, unset, subnetField),
		optional(&r.Overlay.VXLANID, unset, vxlanIDField),
		optional(&r.Overlay.VXLANPort, unset, vxlanPortField),
		optional(&r.Overlay.MTU, unset, mtuField),
		boolField("docker.enabled", &r.Docker.Enabled),
		textField("docker.socket", &r.Docker.Socket, "unix:///var/run/docker.sock", parseSocket, text),
	}, engineFields(&r.Engine, parseRunnerDevice)...)
	rules := []rule{
		{[]string{"overlay.vxlan_id", "overlay.subnet"}, func() error {
			if r.Overlay.VXLANID == nil || r.Overlay.Subnet == nil {
				return nil
			}
			return vniRange(*r.Overlay.VXLANID, *r.Overlay.Subnet)
		}},
		{[]string{"runner.address", "overlay.subnet", "overlay.enabled"}, func() error {
			if r.Overlay.Subnet == nil {
				return nil
			}
			return outside(r.Overlay.Enabled, r.Runner.Address, *r.Overlay.Subnet)
		}},
		{[]string{"runner.host", "overlay.subnet", "overlay.enabled"}, func() error {
			ap, err := netip.ParseAddrPort(r.Runner.Host)
			if r.Overlay.Subnet == nil || err != nil {
				return nil
			}
			return outside(r.Overlay.Enabled, ap.Addr(), *r.Overlay.Subnet)
		}},
	}
	return schema{fields, rules, func() []field { return new(Host).schema().fields }, "runner.toml"}
}

// vniRange checks that the last runner still has a VNI.
func vniRange(id uint32, p Plan) error {
	if n := p.MaxRunners(); int64(id)+int64(n) > maxVNI {
		return fmt.Errorf("must be 0..%d, so that all %d runners of overlay.subnet %s have a VNI of at most %d",
			maxVNI-n, n, p, maxVNI)
	}
	return nil
}

// outside checks that an underlay address is not part of the overlay.
func outside(enabled bool, a netip.Addr, p Plan) error {
	a = a.Unmap()
	if !enabled || !a.Is4() || a.IsUnspecified() || !p.Overlay().Contains(a) {
		return nil
	}
	hint := ""
	if q, ok := SuggestPlan(p, []netip.Prefix{netip.PrefixFrom(a, 16).Masked()}); ok {
		hint = fmt.Sprintf(", or an overlay.subnet that does not cover it, such as %q", q)
	}
	return fmt.Errorf("must be outside the overlay %s, as tunnels cannot run inside themselves; "+
		"write the machine's address on the underlay%s", p.Overlay(), hint)
}
