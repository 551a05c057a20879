// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"kohaku/conf"
)

// obstacles are chains of others that drop the overlay's packets. Guarded by
// Firewall.mu.
type obstacles struct {
	looked    bool // nft told what there is
	confirmed []string
	// suspected were met once. What lasts only while somebody reloads is no
	// problem worth a line.
	suspected []string
	at        time.Time // of the last look
}

// obstaclePause lies between two looks at all of nftables, which cost more than one
// at our own chains.
const obstaclePause = 2 * time.Second

// err gives the error of the iptables layer and the obstacles. On a machine without iptables that needs no
// rule of ours, the lack of the program is no problem if nothing is in the way.
func (o obstacles) err(tables error) []error {
	errs := []error{tables}
	if errors.Is(tables, ErrNoIPTables) && o.looked && !strings.Contains(tables.Error(), "Runner") {
		errs[0] = nil
	}
	for _, text := range o.confirmed {
		errs = append(errs, errors.New(text))
	}
	return errs
}

// inspect looks whether chains of others stand in the way. At once it believes what
// it sees, else what it saw twice; again says that a second look is due.
func (f *Firewall) inspect(r Rules, now once) (again bool) {
	f.mu.Lock()
	due := bool(now) || time.Since(f.obstacles.at) >= obstaclePause
	f.mu.Unlock()
	if !due {
		return true
	}
	path, err := find("nft")
	var found []string
	if err == nil {
		var listing string
		var failed error
		if err = f.namespace.do(func() {
			listing, failed = execute(context.Background(), path, nil, "--json", "--terse", "list", "ruleset")
		}); err == nil {
			err = failed
		}
		if err == nil {
			var rules *nftRules
			if rules, err = parseNFT([]byte(listing)); err == nil {
				found = rules.obstacles(r)
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	o := &f.obstacles
	o.at, o.looked = time.Now(), err == nil
	if now {
		o.confirmed = found
	} else {
		o.confirmed = slices.DeleteFunc(slices.Clone(found), func(s string) bool {
			return !slices.Contains(o.suspected, s) && !slices.Contains(o.confirmed, s)
		})
	}
	o.suspected = found
	return !slices.Equal(o.confirmed, found)
}

// once says that a single look is enough.
type once bool

// obstacles names what drops one of the overlay's packets for certain, with what to
// do. It follows packets such as they will come through every chain of their hooks.
func (n *nftRules) obstacles(r Rules) []string {
	var out []string
	overlay := r.Overlay.Masked()
	say := func(c *nftChain, what, why, zones string, remedy ...string) {
		todo := "Add to it, and to the file that it is loaded from: " + strings.Join(remedy, "; ")
		if c.Table == "firewalld" {
			todo = "firewalld could not be told; by hand: " + zones
		}
		text := fmt.Sprintf("the nftables chain %q of table %s %s drops %s (%s); a drop there is final, whatever other chains accept. %s",
			c.Name, c.Family, c.Table, what, why, todo)
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	if p, ok := forwarded(r); ok {
		for _, hook := range []string{"prerouting", "forward", "postrouting"} {
			for _, c := range n.base(hook, false) {
				if why, ok := n.drops(c, p); ok {
					rule := fmt.Sprintf("nft insert rule %s %s %s ip %%s %s accept", c.Family, c.Table, c.Name, overlay)
					say(c, "what containers send each other", why,
						"firewall-cmd --zone=trusted --add-interface=DEVICE, for each of "+strings.Join(r.Trusted, ", "),
						fmt.Sprintf(rule, "saddr"), fmt.Sprintf(rule, "daddr"))
				}
			}
		}
	}
	if r.Port != 0 {
		from := r.Peer
		if !from.IsValid() {
			from = anyPeer
		}
		p := packet{src: from, dst: ownAddr, proto: "udp", dport: r.Port, sport: 50000}
		if len(r.Underlay) > 0 {
			p.in = r.Underlay[0]
		}
		for _, hook := range []string{"prerouting", "input"} {
			for _, c := range n.base(hook, from.Is6()) {
				if why, ok := n.drops(c, p); ok {
					say(c, "VXLAN", why, fmt.Sprintf("firewall-cmd --add-port=%d/udp", r.Port), fmt.Sprintf("nft insert rule %s %s %s udp dport %d accept", c.Family, c.Table, c.Name, r.Port))
				}
			}
		}
	}
	return out
}

// Stand-ins for addresses that are not known here.
var (
	anyPeer = netip.MustParseAddr("192.0.2.7")
	ownAddr = netip.Addr{} // whatever rules say of the own address is left open
)

// forwarded is the first packet of a connection between containers of two Runners.
func forwarded(r Rules) (p packet, ok bool) {
	var in, out string
	for _, d := range r.Trusted {
		switch _, tunnel := conf.RunnerIDOfDevice(d); {
		case d == conf.BridgeDevice: // a Runner routes from its bridge to its bridge
			in, out = d, d
		case tunnel && in == "":
			in, out = d, d
		case tunnel:
			out = d
		}
	}
	if in == "" || !r.Overlay.Addr().Is4() {
		return packet{}, false
	}
	a := r.Overlay.Masked().Addr().As4()
	src, dst := a, a
	src[3], dst[3] = src[3]+2, dst[3]+3
	return packet{in: in, out: out, src: netip.AddrFrom4(src), dst: netip.AddrFrom4(dst), proto: "tcp", sport: 50000, dport: 7}, true
}
