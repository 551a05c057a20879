// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"kohaku/conf"
	"kohaku/internal/lab"
)

const (
	pings        = 5
	transferPort = 5001
	outsidePort  = 7777
	vxlanPort    = 4789
	vxlanType    = "vxlan"  // of a kernel VXLAN device, in netlink
	tapType      = "tuntap" // of a TAP device, as the netlink package calls it
	tunnelEnds   = 4        // two tunnels
)

func (r *run) pingContainer(ctx context.Context) ([]string, error) {
	return r.pingFrom(ctx, r.ends[0], r.ends[1].addr)
}

func (r *run) pingHost(ctx context.Context) ([]string, error) {
	return r.pingFrom(ctx, r.ends[0], conf.DefaultHost().Overlay.Subnet.HostAddr())
}

// pingFrom wants every ping answered.
func (r *run) pingFrom(ctx context.Context, from *container, to netip.Addr) ([]string, error) {
	p, err := ping(ctx, from, to, pings)
	if err != nil {
		return nil, err
	}
	r.result.Pings = append(r.result.Pings, p)
	line := fmt.Sprintf("%s > %s: %s", from.addr, to, p)
	if p.Received < p.Sent {
		return nil, fmt.Errorf("%s", line)
	}
	return []string{line}, nil
}

// reachOutside goes to a machine that could not answer a container: it has no
// route to the overlay. So what is answered went out under the Runner's address.
func (r *run) reachOutside(ctx context.Context) ([]string, error) {
	from, out := r.ends[0], r.underlay.Hosts[outside]
	detail, err := r.pingFrom(ctx, from, out.V4)
	if err != nil {
		return detail, err
	}
	seen, err := seenFrom(ctx, from, out.Node, netip.AddrPortFrom(out.V4, outsidePort))
	if err != nil {
		return detail, err
	}
	r.result.SeenFrom = seen.String()
	if seen != from.runner.V4 {
		return detail, fmt.Errorf("outside sees the container as %s instead of its Runner's address %s", seen, from.runner.V4)
	}
	return append(detail, fmt.Sprintf("TCP to %s:%d: seen there as %s, the address of %s", out.V4, outsidePort, seen, from.runner.Name())), nil
}

func (r *run) transferTCP(ctx context.Context) ([]string, error) {
	to := r.ends[1]
	t, err := transfer(ctx, r.ends[0], to, netip.AddrPortFrom(to.addr, transferPort), r.Bytes, r.Budget)
	if err != nil {
		return nil, err
	}
	r.result.Transfer = &t
	return []string{t.String()}, nil
}

// watchUnderlay captures at the switch's port to the Host and looks for one
// echo request on both tunnels: as it came from the first Runner and as it went
// to the second.
func (r *run) watchUnderlay(ctx context.Context) ([]string, error) {
	a, b := r.ends[0], r.ends[1]
	host := r.underlay.Hosts[theHost]
	seen, err := watch(host.AtPort, vxlanPort, func() error {
		_, err := ping(ctx, a, b.addr, 2)
		return err
	})
	if err != nil {
		return nil, err
	}
	base := conf.DefaultHost().Overlay.VXLANID
	legs := []struct {
		from, to *lab.UnderlayHost
		vni      uint32
	}{
		{a.runner, host, base + 1},
		{host, b.runner, base + 2},
	}
	var detail []string
	for _, leg := range legs {
		i := slices.IndexFunc(seen, func(o Outer) bool {
			return o.From.Addr == leg.from.V4 && o.To.Addr == leg.to.V4 && o.VNI == leg.vni &&
				o.InnerFrom.Addr == a.addr && o.InnerTo.Addr == b.addr
		})
		if i < 0 {
			lines := fmt.Sprintf("of %d VXLAN datagrams at the Host's port none goes %s > %s with VNI %d and %s > %s inside",
				len(seen), leg.from.V4, leg.to.V4, leg.vni, a.addr, b.addr)
			for _, o := range seen {
				lines += "\n  " + o.String()
			}
			return detail, fmt.Errorf("%s", lines)
		}
		r.result.Outer = append(r.result.Outer, seen[i])
		detail = append(detail, seen[i].String())
	}
	return detail, nil
}

// noKernelVXLAN looks at the devices of every namespace: none is a VXLAN device
// of the kernel, and the four ends of the two tunnels are TAP devices.
func (r *run) noKernelVXLAN(context.Context) ([]string, error) {
	var tunnels, kernel []string
	all := 0
	for _, n := range r.net.Nodes() {
		links, err := n.Handle().LinkList()
		if err != nil {
			return nil, fmt.Errorf("list the devices of %s: %w", n.Name(), err)
		}
		all += len(links)
		for _, l := range links {
			name := l.Attrs().Name
			_, ours := conf.RunnerIDOfDevice(name)
			switch {
			case l.Type() == vxlanType:
				kernel = append(kernel, name+" in "+n.Name())
			case l.Type() == tapType && (ours || name == conf.RunnerTunnelDevice):
				tunnels = append(tunnels, name+" in "+n.Name())
			}
		}
	}
	if len(kernel) > 0 {
		return nil, fmt.Errorf("there are kernel VXLAN devices: %s", strings.Join(kernel, ", "))
	}
	if len(tunnels) != tunnelEnds {
		return nil, fmt.Errorf("%d TAP devices instead of %d: %s", len(tunnels), tunnelEnds, strings.Join(tunnels, ", "))
	}
	return []string{
		fmt.Sprintf("none of the %d devices in %d namespaces is one; the tunnels' ends are TAP devices:", all, len(r.net.Nodes())),
		strings.Join(tunnels, ", "),
	}, nil
}

// runStatus runs the command that a person would run on the Host.
func (r *run) runStatus(ctx context.Context) ([]string, error) {
	raw, err := r.kohaku(ctx, theHost, "status", "--json", "--host", r.socket())
	if err != nil {
		return nil, err
	}
	if !json.Valid(raw) {
		return nil, fmt.Errorf("kohaku status --json printed something else: %.200q", raw)
	}
	r.result.Status = raw
	out, err := r.kohaku(ctx, theHost, "status", "--host", r.socket())
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	return lines, err
}

// kohaku runs a command of this program on a machine and returns its standard
// output.
func (r *run) kohaku(ctx context.Context, machine int, args ...string) ([]byte, error) {
	cmd := r.command(ctx, r.underlay.Hosts[machine], args...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("kohaku %s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

func unmarshal(b []byte, into any) error {
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("the answer is not what was expected: %w: %.200q", err, b)
	}
	return nil
}
