// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"kohaku/internal/lab"
)

// ovsSchema is where packages put the database's schema.
const ovsSchema = "/usr/share/openvswitch/vswitch.ovsschema"

// ovsMissing is needs for Open vSwitch's programs and its schema.
func ovsMissing() string {
	if why := needs("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl")(); why != "" {
		return why
	}
	if _, err := os.Stat(ovsSchema); errors.Is(err, fs.ErrNotExist) {
		return ovsSchema + " does not exist"
	}
	return ""
}

// ovsUnderlay is the device that belongs to Open vSwitch in each machine. It takes
// a device of its own, for it puts its own bridge over it, which would take eth0
// away from the other data paths.
const ovsUnderlay = "eth1"

// upOpenVSwitch runs the userspace datapath of Open vSwitch (datapath_type=netdev,
// without DPDK), one switch with its database for each machine: a bridge over the
// underlay, which has the underlay address, and for each tunnel a bridge with a
// VXLAN port, whose own port has the overlay address. This is how its
// documentation sets up tunnels in user space (Documentation/howto/userspace-tunneling).
func upOpenVSwitch(ctx context.Context, b *bench) (endpoints, error) {
	sw, err := b.net.Switch(b.node("switch-ovs"), underlayMTU)
	if err != nil {
		return endpoints{}, err
	}
	machines := make([]*ovs, len(b.hosts))
	for i, h := range b.hosts {
		port, at, err := sw.Attach(h.Node, ovsUnderlay)
		if err != nil {
			return endpoints{}, err
		}
		if err := lab.Profile(b.profile).Apply(port, at); err != nil {
			return endpoints{}, err
		}
		if machines[i], err = b.startOVS(ctx, i); err != nil {
			return endpoints{}, err
		}
	}
	return b.tunnelled(netOpenVSwitch, innerMTU(), func(i int, ends []tunnelEnd) error {
		for _, end := range ends {
			peer := i + 1
			if int(end.VNI-vni(0)) == i-1 {
				peer = i - 1
			}
			err := machines[i].vsctl(ctx, "add-br", end.Device, "--", "set", "bridge", end.Device, "datapath_type=netdev",
				"--", "set", "interface", end.Device, fmt.Sprintf("mtu_request=%d", end.MTU),
				"--", "add-port", end.Device, end.Device+"v",
				"--", "set", "interface", end.Device+"v", "type=vxlan",
				fmt.Sprintf("options:remote_ip=%v", ovsAddr(peer)), fmt.Sprintf("options:key=%d", end.VNI))
			if err != nil {
				return err
			}
			if err := b.deviceUp(i, end); err != nil {
				return err
			}
		}
		return nil
	})
}

// ovsAddr is machine i's address on the underlay of Open vSwitch (RFC 5737's
// second documentation range; the lab's own underlay has the first).
func ovsAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(i + 1)}) }

// ovs is one machine's switch.
type ovs struct {
	b    *bench
	i    int
	env  []string
	sock string // of the database
}

func (b *bench) startOVS(ctx context.Context, i int) (*ovs, error) {
	dir, err := b.workspace("ovs")
	if err != nil {
		return nil, err
	}
	o := &ovs{b: b, i: i, sock: "unix:" + filepath.Join(dir, "db.sock")}
	for _, v := range []string{"OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"} {
		o.env = append(o.env, v+"="+dir)
	}
	db := filepath.Join(dir, "conf.db")
	if err := b.tell(ctx, i, o.env, "ovsdb-tool", "create", db, ovsSchema); err != nil {
		return nil, err
	}
	server, err := b.start(ctx, i, dir, o.env, "ovsdb-server", db, "--remote=p"+o.sock, "--unixctl="+filepath.Join(dir, "db.ctl"))
	if err != nil {
		return nil, err
	}
	err = server.until(ctx, "it does not listen", func() error {
		_, err := os.Stat(filepath.Join(dir, "db.sock"))
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := b.tell(ctx, i, o.env, "ovs-vsctl", "--db="+o.sock, "--no-wait", "init"); err != nil {
		return nil, err
	}
	if _, err := b.start(ctx, i, dir, o.env, "ovs-vswitchd", o.sock, "--unixctl="+filepath.Join(dir, "switch.ctl"), "-vconsole:warn"); err != nil {
		return nil, err
	}
	const bridge = "ovs-phy"
	err = o.vsctl(ctx, "add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev", "--", "add-port", bridge, ovsUnderlay)
	if err != nil {
		return nil, err
	}
	return o, b.deviceUp(i, tunnelEnd{Device: bridge, MTU: underlayMTU, Address: netip.PrefixFrom(ovsAddr(i), 24)})
}

// vsctl changes the switch's configuration and waits until it is in force.
func (o *ovs) vsctl(ctx context.Context, args ...string) error {
	return o.b.tell(ctx, o.i, o.env, "ovs-vsctl", append([]string{"--db=" + o.sock, "--timeout=9"}, args...)...)
}
