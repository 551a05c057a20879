// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
)

// engine28 are the rules that Docker Engine 28 and later makes for a network on
// bridge kohaku-overlay with traffic between containers and without masquerade, as
// moby's own tests have them written down
// (daemon/libnetwork/drivers/bridge/internal/iptabler/testdata, icc=true,
// masq=false). They differ by the network's gateway mode in their last verdict.
const engine28 = `-P FORWARD DROP
-N DOCKER
-N DOCKER-BRIDGE
-N DOCKER-CT
-N DOCKER-FORWARD
-N DOCKER-INTERNAL
-I FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i kohaku-overlay -o kohaku-overlay -j %s
-A DOCKER-BRIDGE -o kohaku-overlay -j DOCKER
-A DOCKER-CT -o kohaku-overlay -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-INTERNAL
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i kohaku-overlay -j ACCEPT`

// directAccess is the rule for each container, from Engine 28.2 on
// (filterDirectAccess in iptabler/endpoint.go); the gateway mode nat-unprotected,
// which package docker chooses, has none.
const directAccess = "-t raw -A PREROUTING -d %s ! -i kohaku-overlay -j DROP"

// Docker's rules from Engine 28 on do not stop the overlay, and with the gateway
// mode that the Runner's network has, nothing that is routed to its containers.
func TestDocker28Rules(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	r1, out := k.Hosts[runner1], k.Hosts[outside]
	check(t, out.AddRoute(netip.MustParsePrefix("10.1.0.0/16"), r1.V4))
	// The worst that a machine can do: bridged frames meet the rules, too. Without
	// br_netfilter there is no such setting, and they never do.
	if err := r1.Sysctl("net.bridge.bridge-nf-call-iptables", "1"); err != nil {
		t.Log(err)
	}
	iptables := func(line string) {
		t.Helper()
		if o, err := r1.Command(t.Context(), "iptables", append([]string{"-w"}, strings.Fields(line)...)...).CombinedOutput(); err != nil {
			t.Fatalf("iptables %s: %v: %s", line, err, o)
		}
	}
	for _, c := range []struct {
		name    string
		verdict string
		raw     bool
		routed  bool // a machine of the underlay reaches a container by its address
	}{
		{"nat, 28.0: our rules in FORWARD come first", "DROP", false, true},
		{"nat, 28.2: nothing comes before the raw table", "DROP", true, false},
		{"nat-unprotected, what we choose", "ACCEPT", false, true},
	} {
		iptables("-F FORWARD")
		for _, chain := range []string{"DOCKER", "DOCKER-BRIDGE", "DOCKER-CT", "DOCKER-FORWARD", "DOCKER-INTERNAL"} {
			// Only there from the second time on.
			_, _ = r1.Command(t.Context(), "iptables", "-F", chain).CombinedOutput()
		}
		for _, chain := range []string{"DOCKER", "DOCKER-BRIDGE", "DOCKER-CT", "DOCKER-FORWARD", "DOCKER-INTERNAL"} {
			_, _ = r1.Command(t.Context(), "iptables", "-X", chain).CombinedOutput()
		}
		iptables("-t raw -F PREROUTING")
		for line := range strings.Lines(fmt.Sprintf(engine28, c.verdict)) {
			iptables(line)
		}
		if c.raw {
			iptables(fmt.Sprintf(directAccess, k.boxAddr(0)))
		}
		eventually(t, 20*time.Second, c.name+": our rules on top", func() error {
			rules, err := r1.Command(t.Context(), "iptables", "-S", "FORWARD").Output()
			if err == nil && !strings.HasPrefix(string(rules), "-P FORWARD DROP\n-A FORWARD -s 10.0.0.0/8 ") {
				err = fmt.Errorf("the chain begins with\n%s", rules)
			}
			return err
		})
		for _, way := range []struct {
			name string
			from *lab.Node
			to   netip.Addr
			open bool
		}{
			{"container to container", k.boxes[0], k.boxAddr(1), true},
			{"from another Runner's container", k.boxes[1], k.boxAddr(0), true},
			{"container to the Host", k.boxes[0], netip.MustParseAddr("10.0.0.1"), true},
			{"from the Host", k.Hosts[theHost].Node, k.boxAddr(0), true},
			{"from the Runner itself", r1.Node, k.boxAddr(0), true},
			{"out of the Runner", k.boxes[0], out.V4, true},
			{"routed in from the underlay", out.Node, k.boxAddr(0), c.routed},
		} {
			if err := k.pingUntil(way.from, way.to, way.open); err != nil {
				t.Errorf("%s: %s: %v", c.name, way.name, err)
			}
		}
	}
}

// pingUntil pings until an answer comes, when one should, or a few times, when none
// should.
func (k *cluster) pingUntil(from *lab.Node, to netip.Addr, open bool) error {
	p := must(inNode(from, func() (*traffic.Pinger, error) { return traffic.NewPinger(netip.Addr{}, to) }))(k.t)
	defer p.Close()
	const patience = 200 * time.Millisecond
	tries := 3
	if open {
		tries = 100
	}
	var err error
	for range tries {
		ctx, cancel := context.WithTimeout(k.t.Context(), patience)
		_, err = p.Ping(ctx, 56)
		cancel()
		if err == nil {
			break
		}
	}
	if !open && err == nil {
		return errors.New("passes, though a rule is there that should stop it")
	}
	if !open {
		return nil
	}
	return err
}

// inNode is open for functions whose error the caller wants.
func inNode[T any](n *lab.Node, f func() (T, error)) (v T, err error) {
	err = n.Do(func() (err error) { v, err = f(); return err })
	return v, err
}
