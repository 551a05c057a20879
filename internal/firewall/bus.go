// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"context"
	"fmt"

	"github.com/godbus/dbus/v5"
)

const (
	busName       = "org.fedoraproject.FirewallD1"
	busPath       = dbus.ObjectPath("/org/fedoraproject/FirewallD1")
	mainInterface = "org.fedoraproject.FirewallD1"
	zoneInterface = "org.fedoraproject.FirewallD1.zone"
	busDaemon     = "org.freedesktop.DBus"
)

// systemBus is firewalld behind the system bus.
type systemBus struct {
	conn *dbus.Conn
}

// connectBus connects to the system bus, DBUS_SYSTEM_BUS_ADDRESS if that is set.
// changed is called, on a goroutine of its own, after anything in firewalld changed,
// and when it comes or goes.
func connectBus(changed func(by string)) (bus, error) {
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		return nil, fmt.Errorf("connect to the system bus: %w", err)
	}
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(busName), dbus.WithMatchObjectPath(busPath)},
		{dbus.WithMatchSender(busDaemon), dbus.WithMatchInterface(busDaemon), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName)},
	} {
		if err := conn.AddMatchSignal(match...); err != nil {
			conn.Close()
			return nil, fmt.Errorf("subscribe to firewalld's signals: %w", err)
		}
	}
	signals := make(chan *dbus.Signal, 64)
	conn.Signal(signals)
	go func() { // ends when the connection does, which closes the channel
		for range signals {
			changed("firewalld")
		}
		changed("")
	}()
	return &systemBus{conn}, nil
}

func (b *systemBus) close() { b.conn.Close() }

func (b *systemBus) call(ctx context.Context, method string, answer any, args ...any) error {
	c := b.conn.Object(busName, busPath).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	if c.Err != nil {
		return fmt.Errorf("%s%v: %w", method, args, c.Err)
	}
	if answer == nil {
		return nil
	}
	if err := c.Store(answer); err != nil {
		return fmt.Errorf("%s%v: the answer is not what firewalld documents: %w", method, args, err)
	}
	return nil
}

func (b *systemBus) present(ctx context.Context) (bool, error) {
	daemon := b.conn.BusObject()
	var has bool
	if err := daemon.CallWithContext(ctx, busDaemon+".NameHasOwner", 0, busName).Store(&has); err != nil || !has {
		return false, err
	}
	// A firewalld that filters another namespace is not ours to change: the bus may
	// be the machine's while the daemon has a namespace of its own.
	var pid uint32
	if err := daemon.CallWithContext(ctx, busDaemon+".GetConnectionUnixProcessID", 0, busName).Store(&pid); err != nil {
		return false, err
	}
	return filtersHere(pid), nil
}

func (b *systemBus) interfaces(ctx context.Context, zone string) (names []string, err error) {
	err = b.call(ctx, zoneInterface+".getInterfaces", &names, zone)
	return names, err
}

func (b *systemBus) zoneOf(ctx context.Context, device string) (zone string, err error) {
	err = b.call(ctx, zoneInterface+".getZoneOfInterface", &zone, device)
	if err == nil && zone == "" {
		err = b.call(ctx, mainInterface+".getDefaultZone", &zone)
	}
	return zone, err
}

func (b *systemBus) changeZone(ctx context.Context, zone, device string) error {
	return b.call(ctx, zoneInterface+".changeZoneOfInterface", nil, zone, device)
}

func (b *systemBus) removeInterface(ctx context.Context, zone, device string) error {
	return b.call(ctx, zoneInterface+".removeInterface", nil, zone, device)
}

func (b *systemBus) zoneNames(ctx context.Context) (names []string, err error) {
	err = b.call(ctx, zoneInterface+".getZones", &names)
	return names, err
}

func (b *systemBus) richRules(ctx context.Context, zone string) (rules []string, err error) {
	err = b.call(ctx, zoneInterface+".getRichRules", &rules, zone)
	return rules, err
}

func (b *systemBus) hasPort(ctx context.Context, zone string, port uint16) (open bool, err error) {
	err = b.call(ctx, zoneInterface+".queryPort", &open, zone, itoa(int(port)), "udp")
	return open, err
}

func (b *systemBus) addRichRule(ctx context.Context, zone, rule string) error {
	return b.call(ctx, zoneInterface+".addRichRule", nil, zone, rule, int32(0)) // without a timeout
}

func (b *systemBus) removeRichRule(ctx context.Context, zone, rule string) error {
	return b.call(ctx, zoneInterface+".removeRichRule", nil, zone, rule)
}
