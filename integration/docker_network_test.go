// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"kohaku/internal/lab"
)

// Whatever keeps the Docker network from being there, or from being right, heals
// without anybody's doing, or is said with what to do.
func TestDockerNetworkNotCreated(t *testing.T) {
	k := newDockerCluster(t, lab.UnderlayConfig{})
	d, r1 := k.docker[0], k.Hosts[runner1]
	k.start(theHost)
	k.start(runner1)
	k.waitActive("runner1")
	k.noProblems()
	if n := strings.Count(k.daemons[runner1].log(), "no Docker on this machine"); n != 1 {
		t.Errorf("that there is no Docker was said %d times", n)
	}
	bridge := k.bridge(runner1)

	d.start()
	k.waitNetwork(0)
	d.loadImage()
	k.right(bridge)

	// Removed by hand: made again, and the bridge stays what it is.
	d.docker("network", "rm", overlayNetwork)
	k.waitNetwork(0)
	k.right(bridge)

	// The bridge deleted by hand under a container, by which Docker loses nothing
	// but its place.
	d.docker("run", "-d", "--name", "web", "--network", overlayNetwork, boxImage, "/bin/box", "serve")
	web := must(netip.ParseAddr(d.docker("inspect", "-f", "{{(index .NetworkSettings.Networks \""+overlayNetwork+"\").IPAddress}}", "web")))(t)
	check(t, k.pingUntil(k.Hosts[theHost].Node, web, true))
	check(t, r1.Delete("kohaku-overlay"))
	k.right(bridge)
	check(t, k.pingUntil(k.Hosts[theHost].Node, web, true))
	d.docker("rm", "-f", "web")

	// Made by a person as the old guide says, while no Runner ran, on a bridge that
	// Docker had to make: it has no place for the Host, masquerades, and has the
	// wrong MTU. When Docker removes it, the bridge goes, too.
	k.stop(runner1)
	d.docker("network", "rm", overlayNetwork)
	check(t, r1.Delete("kohaku-overlay"))
	byHand := []string{"network", "create", "--driver", "bridge", "--subnet", "10.1.0.0/16", "--gateway", "10.1.0.1",
		"-o", "com.docker.network.bridge.name=kohaku-overlay", overlayNetwork}
	d.docker(byHand...)
	k.start(runner1)
	k.right(bridge)

	// The same, with a stopped container on it: left, and said, until it is gone.
	k.stop(runner1)
	d.docker("network", "rm", overlayNetwork)
	d.docker(byHand...)
	d.docker("create", "--name", "db", "--network", overlayNetwork, boxImage, "/bin/box", "serve")
	k.start(runner1)
	k.problem("enable_ip_masquerade", "10.1.0.254", "attached: db", "docker network disconnect")
	d.docker("rm", "db")
	k.right(bridge)

	// Another network on its bridge.
	k.stop(runner1)
	d.docker("network", "rm", overlayNetwork)
	d.docker(append(byHand[:len(byHand)-1:len(byHand)-1], "in-the-way")...)
	k.start(runner1)
	k.problem("docker network rm in-the-way")
	d.docker("network", "rm", "in-the-way")
	k.right(bridge)

	// dockerd away, and back.
	d.stop()
	k.problem("dockerd does not answer", "systemctl start docker")
	d.start()
	k.right(bridge)
}

// bridge is what must stay the same about a Runner's bridge and tunnel device,
// however often they are made.
func (k *cluster) bridge(machine int) string {
	k.t.Helper()
	h := k.Hosts[machine]
	b := must(lab.Port{Node: h.Node, Name: "kohaku-overlay"}.Link())(k.t)
	v := must(lab.Port{Node: h.Node, Name: "vxlan0"}.Link())(k.t)
	var addrs []string
	for _, a := range must(h.Handle().AddrList(b, netlink.FAMILY_V4))(k.t) {
		addrs = append(addrs, a.IPNet.String())
	}
	slices.Sort(addrs)
	return fmt.Sprintf("mac %s, addresses %v, alias %q, mtu %d, port vxlan0 %v with mac %s", b.Attrs().HardwareAddr, addrs,
		b.Attrs().Alias, b.Attrs().MTU, v.Attrs().MasterIndex == b.Attrs().Index, v.Attrs().HardwareAddr)
}

// right waits until runner1's network is as it must be, on the bridge that was, and
// nobody complains.
func (k *dockerCluster) right(bridge string) {
	k.t.Helper()
	const format = `{{.Driver}} {{json .IPAM.Config}} {{json .Options}} {{json .Labels}}`
	const want = `bridge [{"Subnet":"10.1.0.0/16","Gateway":"10.1.0.1","AuxiliaryAddresses":{"host":"10.1.0.254"}}] ` +
		`{"com.docker.network.bridge.enable_icc":"true","com.docker.network.bridge.enable_ip_masquerade":"false",` +
		`"com.docker.network.bridge.name":"kohaku-overlay","com.docker.network.driver.mtu":"1450"} {"kohaku":"overlay"}`
	eventually(k.t, 30*time.Second, "the Docker network", func() error {
		got, err := k.docker[0].try("network", "inspect", "-f", format, overlayNetwork)
		if err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("it is %s, not %s", got, want)
		}
		if _, err := (lab.Port{Node: k.Hosts[runner1].Node, Name: "kohaku-overlay"}).Link(); err != nil {
			return err
		}
		if now := k.bridge(runner1); now != bridge {
			return fmt.Errorf("the bridge is: %s; was: %s", now, bridge)
		}
		return nil
	})
	k.noProblems()
}

// problem waits until the Host's status has a problem with all these words.
func (k *dockerCluster) problem(words ...string) {
	k.t.Helper()
	eventually(k.t, 30*time.Second, fmt.Sprintf("a problem with %q", words), func() error {
		s, err := k.status()
		if err != nil {
			return err
		}
		for _, p := range s.Problems {
			if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(p, w) }) {
				return nil
			}
		}
		return fmt.Errorf("problems %q", s.Problems)
	})
}
