// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"kohaku/conf"
)

const (
	trustedZone = "trusted"
	// richPriority marks our rules in firewalld's zones, which have no comments. A
	// positive one is asked after everything else in the zone, so that what the
	// admin denies stays denied.
	richPriority = `rule priority="4789" `
)

// zones is the firewalld layer: runtime settings only, over D-Bus. Used by one
// goroutine at a time.
type zones struct {
	changed func(by string) // firewalld or its owner changed
	connect func(changed func(by string)) (bus, error)

	bus bus // nil: not connected
	// placed is what was in place after the last good look.
	placed map[string]bool
	using  bool
}

// bus is what is needed of firewalld's D-Bus interface (firewalld.dbus(5)); tests
// replace it.
type bus interface {
	// present reports whether firewalld runs and filters this thread's namespace.
	present(ctx context.Context) (bool, error)
	interfaces(ctx context.Context, zone string) ([]string, error)
	// zoneOf is the zone of a device, the default one's name if it has none.
	zoneOf(ctx context.Context, device string) (string, error)
	changeZone(ctx context.Context, zone, device string) error
	removeInterface(ctx context.Context, zone, device string) error
	zoneNames(ctx context.Context) ([]string, error)
	richRules(ctx context.Context, zone string) ([]string, error)
	hasPort(ctx context.Context, zone string, port uint16) (bool, error)
	addRichRule(ctx context.Context, zone, rule string) error
	removeRichRule(ctx context.Context, zone, rule string) error
	close()
}

func newZones() *zones {
	return &zones{connect: connectBus, placed: make(map[string]bool), changed: func(string) {}}
}

// busTimeout bounds one look at firewalld, which answers nobody while it reloads.
const busTimeout = 10 * time.Second

func (z *zones) ensure(ctx context.Context, r Rules) pass {
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	ok, err := z.attach(ctx)
	if !ok {
		z.using = false
		return pass{err: err}
	}
	z.using = true
	var p pass
	placed := make(map[string]bool)
	z.ensureTrusted(ctx, r, false, placed, &p)
	z.ensurePort(ctx, r, placed, &p)
	if p.err != nil {
		z.close()
		p.err = fmt.Errorf("firewalld: %w (by hand: firewall-cmd --zone=trusted --add-interface=DEVICE; is firewalld well? firewall-cmd --state)", p.err)
		return p
	}
	z.placed = placed
	return p
}

// attach connects to the system bus and reports whether a firewalld of this
// namespace is there. A machine without the bus has none.
func (z *zones) attach(ctx context.Context) (bool, error) {
	if z.bus == nil {
		b, err := z.connect(z.changed)
		if err != nil {
			return false, nil
		}
		z.bus = b
	}
	ok, err := z.bus.present(ctx)
	if err != nil { // the bus went away, and may be back
		z.close()
		if errors.Is(err, context.DeadlineExceeded) {
			return false, fmt.Errorf("the system bus does not answer, so firewalld's zones are not looked after: %w", err)
		}
		return false, nil
	}
	return ok, nil
}

// ensureTrusted puts our devices into the trusted zone, and takes out those that are
// ours no more: of what we put there ourselves, or all.
func (z *zones) ensureTrusted(ctx context.Context, r Rules, all bool, placed map[string]bool, p *pass) {
	have, err := z.bus.interfaces(ctx, trustedZone)
	if err != nil {
		p.fail(err)
		return
	}
	for _, device := range r.Trusted {
		key := "firewalld " + trustedZone + " zone " + device
		if !slices.Contains(have, device) {
			if z.placed[key] {
				p.lost = append(p.lost, key)
			}
			if err := z.bus.changeZone(ctx, trustedZone, device); err != nil {
				p.fail(err)
				return
			}
			p.changes = append(p.changes, "put "+device+" into firewalld's trusted zone")
		}
		placed[key] = true
	}
	for _, device := range have { // of runners that were released
		key := "firewalld " + trustedZone + " zone " + device
		if overlayDevice(device) && !slices.Contains(r.Trusted, device) && (all || z.placed[key]) {
			if err := z.bus.removeInterface(ctx, trustedZone, device); err != nil {
				p.fail(err)
				return
			}
			p.changes = append(p.changes, "took "+device+" out of firewalld's trusted zone")
		}
	}
}

// overlayDevice reports whether a device of that name is the overlay's.
func overlayDevice(name string) bool {
	if _, ok := conf.RunnerIDOfDevice(name); ok {
		return true
	}
	return name == conf.HostAddressDevice || name == conf.RunnerTunnelDevice || name == conf.BridgeDevice
}

// richRule lets VXLAN in, at the end of a zone.
func richRule(r Rules) string {
	from := ""
	switch {
	case r.Peer.Is4():
		from = `family="ipv4" source address="` + r.Peer.String() + `" `
	case r.Peer.IsValid():
		from = `family="ipv6" source address="` + r.Peer.String() + `" `
	}
	return richPriority + from + `port port="` + itoa(int(r.Port)) + `" protocol="udp" accept`
}

// ensurePort lets VXLAN into the underlay's zones, unless the admin has a say about
// that port there.
func (z *zones) ensurePort(ctx context.Context, r Rules, placed map[string]bool, p *pass) {
	if r.Port == 0 {
		return
	}
	seen := make(map[string]bool)
	for _, device := range r.Underlay {
		zone, err := z.bus.zoneOf(ctx, device)
		if err != nil {
			p.fail(err)
			return
		}
		if seen[zone] || zone == trustedZone {
			continue
		}
		seen[zone] = true
		if err := z.ensureZone(ctx, zone, r, placed, p); err != nil {
			p.fail(err)
			return
		}
	}
	for key := range z.placed { // zones that the underlay is no longer in
		zone, ok := strings.CutPrefix(key, portKey)
		if ok && !seen[zone] {
			if err := z.clearZone(ctx, zone, "", p); err != nil {
				p.fail(err)
			}
		}
	}
}

const portKey = "firewalld VXLAN let in by zone "

func (z *zones) ensureZone(ctx context.Context, zone string, r Rules, placed map[string]bool, p *pass) error {
	rules, err := z.bus.richRules(ctx, zone)
	if err != nil {
		return err
	}
	open, err := z.bus.hasPort(ctx, zone, r.Port)
	if err != nil {
		return err
	}
	quoted := `port port="` + itoa(int(r.Port)) + `" protocol="udp"`
	if open || slices.ContainsFunc(rules, func(s string) bool {
		return !strings.HasPrefix(s, richPriority) && strings.Contains(s, quoted)
	}) {
		return z.clearZone(ctx, zone, "", p)
	}
	rule, key := richRule(r), portKey+zone
	if !slices.Contains(rules, rule) {
		if z.placed[key] {
			p.lost = append(p.lost, key)
		}
		if err := z.bus.addRichRule(ctx, zone, rule); err != nil {
			return err
		}
		p.changes = append(p.changes, fmt.Sprintf("let VXLAN in by firewalld's zone %s: %s", zone, rule))
	}
	placed[key] = true
	return z.clearZone(ctx, zone, rule, p)
}

// clearZone removes our rules from a zone, but for one.
func (z *zones) clearZone(ctx context.Context, zone, but string, p *pass) error {
	rules, err := z.bus.richRules(ctx, zone)
	if err != nil {
		return err
	}
	for _, rule := range rules {
		if strings.HasPrefix(rule, richPriority) && rule != but {
			if err := z.bus.removeRichRule(ctx, zone, rule); err != nil {
				return err
			}
			p.changes = append(p.changes, fmt.Sprintf("removed from firewalld's zone %s: %s", zone, rule))
		}
	}
	return nil
}

func (z *zones) remove(ctx context.Context) (changes []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, busTimeout)
	defer cancel()
	ok, err := z.attach(ctx)
	z.using = false
	if !ok {
		return nil, err
	}
	var p pass
	maps.DeleteFunc(z.placed, func(string, bool) bool { return true })
	z.ensureTrusted(ctx, Rules{}, true, map[string]bool{}, &p)
	names, err := z.bus.zoneNames(ctx)
	if err != nil {
		p.fail(err)
	}
	for _, zone := range names {
		if err := z.clearZone(ctx, zone, "", &p); err != nil {
			p.fail(err)
		}
	}
	if p.err != nil {
		return p.changes, fmt.Errorf("remove the overlay from firewalld: %w", p.err)
	}
	return p.changes, nil
}

func (z *zones) inUse() []string {
	if z.using {
		return []string{"firewalld"}
	}
	return nil
}

func (z *zones) poll(bool) time.Duration {
	if z.using {
		return eventPoll // firewalld tells of its changes
	}
	return legacyPoll
}

func (z *zones) close() {
	if z.bus != nil {
		z.bus.close()
		z.bus = nil
	}
}

// filtersHere reports whether a process has the network namespace of this thread. A
// process that cannot be looked at is taken to have it.
func filtersHere(pid uint32) bool {
	theirs, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return true
	}
	mine, err := os.Stat(namespaceFile)
	return err != nil || os.SameFile(theirs, mine)
}
