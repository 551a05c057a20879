// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/lab"
	netlinks "kohaku/internal/link"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Our end and the kernel's beside each other, each with a tunnel to the prober,
// which is no VTEP at all: it makes the datagrams that both receive, byte by byte,
// and looks at those that both send.
//
//	                    prober  eth0 192.0.2.1, 192.0.2.101
//	                      |
//	    +-------------- switch --------------+
//	    |                                    |
//	ours  eth0 192.0.2.2                 theirs  eth0 192.0.2.3
//	  ov0 (engine, VNI 4242)               ov0 (kernel, VNI 4242)
type rig struct {
	t      *testing.T
	net    *lab.Underlay
	prober *lab.UnderlayHost
	ours   *rigEnd
	theirs *rigEnd // the kernel's
	v6     bool
	fences uint32
}

type rigEnd struct {
	*lab.UnderlayHost
	engine *engine.Engine // nil when the kernel's
	dev    lab.Port
	mac    net.HardwareAddr
	seen   *lab.Capture // what ov0 receives
	taken  int          // packets of seen that were looked at
}

// rigConfig changes either end; zero is what each has by default.
type rigConfig struct {
	v6     bool
	engine engine.Config
	outer  engine.Outer
	kernel func(*netlink.Vxlan)
}

// otherSource is an address of the prober that is no peer of anybody.
func otherSource(v6 bool) netip.Prefix {
	if v6 {
		return netip.MustParsePrefix("fd00:192:0:2::65/64")
	}
	return netip.MustParsePrefix("192.0.2.101/24")
}

func newRig(t *testing.T, c rigConfig) *rig {
	t.Helper()
	u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"prober", "ours", "theirs"}, Profile: lab.Wire})
	r := &rig{t: t, net: u, prober: u.Hosts[0], v6: c.v6}
	check(t, r.prober.AddAddr("eth0", otherSource(c.v6)))
	for i, host := range u.Hosts[1:] {
		// What the kernel says by itself would be in the way.
		check(t, host.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"))
		e := &rigEnd{UnderlayHost: host, dev: lab.Port{Node: host.Node, Name: overlayDevice}}
		if i == 0 {
			c.engine.UDPGSO, c.engine.UDPGRO = true, true
			c.engine.Circular = func(remote netip.Addr, device string) (loop bool, err error) {
				err = host.Do(func() (err error) { loop, err = netlinks.Kernel{}.LeadsInto(remote, device); return err })
				return loop, err
			}
			e.engine = newEngine(t, host.Node, c.engine)
			addTunnel(t, host.Node, e.engine, overlayDevice, 1500-encap.Overhead(c.v6), engine.Tunnel{
				VNI: overlayVNI, Peer: engine.Peer{Remote: r.prober.Addr(c.v6), Local: host.Addr(c.v6), Outer: c.outer},
			})
			check(t, host.SetUp(overlayDevice))
			r.ours = e
		} else {
			r.addKernelEnd(host, c.kernel)
			r.theirs = e
		}
		e.mac = must(e.dev.HardwareAddr())(t)
		e.seen = must(e.dev.Capture(func(p lab.Packet) bool { return !p.Outgoing }))(t)
		t.Cleanup(func() {
			if _, err := e.seen.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	return r
}

// addKernelEnd makes the kernel's device as lab.AddKernelVXLAN does, with changes.
func (r *rig) addKernelEnd(host *lab.UnderlayHost, change func(*netlink.Vxlan)) {
	r.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = overlayDevice, 1500-encap.Overhead(r.v6)
	l := &netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: overlayVNI, Port: encap.DefaultPort, UDPCSum: true,
		Group: r.prober.Addr(r.v6).AsSlice(), SrcAddr: host.Addr(r.v6).AsSlice(),
	}
	if change != nil {
		change(l)
	}
	check(r.t, host.Handle().LinkAdd(l))
	check(r.t, host.SetUp(overlayDevice))
}

func (r *rig) ends() [2]*rigEnd { return [2]*rigEnd{r.ours, r.theirs} }

// A probe is a datagram from the prober.
type probe struct {
	from   netip.Addr // zero: the peer's address
	tos    int        // of the outer header
	noSum  bool       // without a UDP checksum
	data   []byte     // from the VXLAN header
	copies int        // 0: one
}

// send sends a probe to an end.
func (r *rig) send(to *rigEnd, p probe) {
	r.t.Helper()
	from := p.from
	if !from.IsValid() {
		from = r.prober.Addr(r.v6)
	}
	check(r.t, r.prober.Do(func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Addr(r.v6), encap.DefaultPort)))
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		cerr := raw.Control(func(fd uintptr) {
			if r.v6 {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, p.tos)
			} else {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, p.tos)
			}
			const udpNoCheck6TX = 101 // include/uapi/linux/udp.h
			switch {
			case err != nil || !p.noSum:
			case r.v6:
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, udpNoCheck6TX, 1)
			default:
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1)
			}
		})
		if err := errors.Join(err, cerr); err != nil {
			return err
		}
		for range max(p.copies, 1) {
			if _, err := c.Write(p.data); err != nil {
				return err
			}
		}
		return nil
	}))
}

// received sends a probe to an end and returns the frames that its device
// delivered because of it. What comes after the probe and has arrived tells that
// nothing more will.
func (r *rig) received(e *rigEnd, p probe) [][]byte {
	r.t.Helper()
	r.settle(e)
	r.send(e, p)
	return r.settle(e)
}

// settle sends a frame of its own to an end, waits until it is delivered and
// returns what came before it and was not looked at yet.
func (r *rig) settle(e *rigEnd) (before [][]byte) {
	r.t.Helper()
	r.fences++
	fence := binary.BigEndian.AppendUint32([]byte("fence"), r.fences)
	frame := append(ethernet(e.mac, 0x88b5), fence...)
	r.send(e, probe{data: vxlanDatagram(overlayVNI, append(frame, make([]byte, 40)...))})
	eventually(r.t, 10*time.Second, "the device of "+e.Name()+" delivers", func() error {
		packets := e.seen.Packets()
		for ; e.taken < len(packets); e.taken++ {
			d := packets[e.taken].Data
			if bytes.Contains(d, fence) {
				e.taken++
				return nil
			}
			before = append(before, d)
		}
		return fmt.Errorf("not yet frame %d", r.fences)
	})
	return before
}

// losses are the counters of an end that tell of lost frames. Of the kernel's
// driver, the errors of its device; rx_dropped is not among them, since the stack
// behind the device counts there what it has no protocol for.
func (e *rigEnd) losses(t *testing.T) counterSet {
	t.Helper()
	c := counterSet{}
	if e.engine != nil {
		maps.Copy(c, e.engine.Stats().Drops)
		for name, n := range e.engine.Tunnels()[0].Drops {
			c[name] += n
		}
		return c
	}
	s := must(e.dev.Link())(t).Attrs().Statistics
	for name, n := range map[string]uint64{
		"rx_errors": s.RxErrors, "rx_frame_errors": s.RxFrameErrors, "rx_length_errors": s.RxLengthErrors,
		"tx_errors": s.TxErrors, "tx_carrier_errors": s.TxCarrierErrors, "collisions": s.Collisions, "tx_dropped": s.TxDropped,
	} {
		if n != 0 {
			c[name] = n
		}
	}
	return c
}

// outcome sends a probe to an end and says in words what became of it: "delivered"
// or "dropped", and what was counted for it.
func (r *rig) outcome(e *rigEnd, p probe) string {
	r.t.Helper()
	before := e.losses(r.t)
	words := "dropped"
	if len(r.received(e, p)) > 0 {
		words = "delivered"
	}
	counted := e.losses(r.t).since(before)
	if len(counted) > 0 {
		words += ": " + strings.Join(slices.Sorted(maps.Keys(counted)), " ")
	}
	return words
}

// transmit gives a frame to an end's device, as its kernel would.
func (r *rig) transmit(e *rigEnd, frames ...[]byte) {
	r.t.Helper()
	check(r.t, e.Do(func() error { return inject(e.dev, frames...) }))
}

// inject sends frames out by a device of the calling thread's namespace.
func inject(dev lab.Port, frames ...[]byte) error {
	l, err := dev.Link()
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, f := range frames {
		if err := unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}); err != nil {
			return fmt.Errorf("send by %s: %w", dev.Name, err)
		}
	}
	return nil
}

// outer is a datagram as the prober sees it.
type outer struct {
	src, dst     netip.Addr
	tos, ttl     uint8
	df           bool
	sport, dport uint16
	checksum     uint16
	data         []byte // from the VXLAN header
}

// sent gives frames to an end's device and returns the datagrams that come of
// them, as many.
func (r *rig) sent(e *rigEnd, frames ...[]byte) []outer {
	r.t.Helper()
	c := must(r.prober.Port.Capture(func(p lab.Packet) bool { return !p.Outgoing }))(r.t)
	r.transmit(e, frames...)
	var got []outer
	eventually(r.t, 10*time.Second, e.Name()+" sends", func() error {
		got = nil
		for _, p := range c.Packets() {
			if o, ok := parseOuter(p.Data); ok && o.dport == encap.DefaultPort && o.src == e.Addr(r.v6) {
				got = append(got, o)
			}
		}
		if len(got) < len(frames) {
			return fmt.Errorf("%d of %d datagrams", len(got), len(frames))
		}
		return nil
	})
	if _, err := c.Stop(); err != nil {
		r.t.Error(err)
	}
	return got
}

// parseOuter reads an Ethernet frame with UDP in it.
func parseOuter(f []byte) (o outer, ok bool) {
	if len(f) < 14+20+8 {
		return o, false
	}
	var udp []byte
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0800:
		ip := f[14:]
		if ip[0] != 0x45 || ip[9] != 17 {
			return o, false
		}
		o.src, o.dst = netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
		o.tos, o.ttl, o.df = ip[1], ip[8], ip[6]&0x40 != 0
		udp = ip[20:]
	case 0x86dd:
		ip := f[14:]
		if len(ip) < 48 || ip[6] != 17 {
			return o, false
		}
		o.src, o.dst = netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
		o.tos, o.ttl = uint8(binary.BigEndian.Uint16(ip)>>4), ip[7]
		udp = ip[40:]
	default:
		return o, false
	}
	o.sport, o.dport, o.checksum = binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:]), binary.BigEndian.Uint16(udp[6:])
	o.data = udp[8:]
	return o, true
}

// proberMAC is the inner source of all probes.
var proberMAC = net.HardwareAddr{2, 0, 0, 0, 9, 9}

// ethernet is the header of a frame from the prober.
func ethernet(to net.HardwareAddr, etherType uint16) []byte {
	f := append(append([]byte{}, to...), proberMAC...)
	return binary.BigEndian.AppendUint16(f, etherType)
}

// innerUDP is a whole inner frame: UDP over IPv4 with the TOS given. Ports differ by
// flow.
func innerUDP(to net.HardwareAddr, tos uint8, flow uint16, payload int) []byte {
	f := ethernet(to, 0x0800)
	f = append(f, 0x45, tos)
	f = binary.BigEndian.AppendUint16(f, uint16(28+payload))
	f = append(f, 0, 1, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2)
	binary.BigEndian.PutUint16(f[24:], ^encap.Checksum(f[14:34], 0))
	f = binary.BigEndian.AppendUint16(f, 1000+flow)
	f = append(f, 0x30, 0x39)
	f = binary.BigEndian.AppendUint16(f, uint16(8+payload))
	return append(f, make([]byte, 2+payload)...) // no checksum, which IPv4 allows
}

// innerUDP6 is the same over IPv6.
func innerUDP6(to net.HardwareAddr, tclass uint8, payload int) []byte {
	f := ethernet(to, 0x86dd)
	f = append(f, 0x60|tclass>>4, tclass<<4, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(8+payload))
	f = append(f, 17, 64)
	f = append(f, netip.MustParseAddr("fd09::1").AsSlice()...)
	f = append(f, netip.MustParseAddr("fd09::2").AsSlice()...)
	f = append(f, 3, 0xe8, 0x30, 0x39)
	f = binary.BigEndian.AppendUint16(f, uint16(8+payload))
	f = append(f, make([]byte, 2+payload)...)
	sum := encap.Checksum([]byte{byte((8 + payload) >> 8), byte(8 + payload)}, encap.Checksum(f[22:54], 17))
	binary.BigEndian.PutUint16(f[60:], ^encap.Checksum(f[54:], sum))
	return f
}

// tagged puts VLAN tags into a frame: EtherType and id of each, outermost first.
func tagged(f []byte, tags ...uint16) []byte {
	out := bytes.Clone(f[:12])
	for _, t := range tags {
		out = binary.BigEndian.AppendUint16(out, t)
	}
	return append(out, f[12:]...)
}

func vxlanDatagram(vni encap.VNI, frame []byte) []byte {
	d := make([]byte, encap.HeaderLen, encap.HeaderLen+len(frame))
	encap.PutHeader(d, vni)
	return append(d, frame...)
}
