// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"kohaku/encap"
	"kohaku/tun"
	"kohaku/tun/tuntest"
)

// What is accepted, what is dropped and under which name, and what the outer
// header says.

// sendRaw sends a datagram to engine 1 from the given address.
func (p *pair) sendRaw(from netip.Addr, d []byte) {
	p.t.Helper()
	c, err := net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)),
		net.UDPAddrFromAddrPort(netip.AddrPortFrom(addrs[1], p.port)))
	if err != nil {
		p.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(d); err != nil {
		p.t.Fatal(err)
	}
}

func vxlan(v encap.VNI, frame []byte) []byte {
	d := make([]byte, encap.HeaderLen, encap.HeaderLen+len(frame))
	encap.PutHeader(d, v)
	return append(d, frame...)
}

func TestReceiveDrops(t *testing.T) {
	good := udpFrame(1, []byte("x"))
	change := func(fn func(f []byte)) []byte { f := bytes.Clone(good); fn(f); return f }
	reserved := vxlan(101, good)
	reserved[7] = 1
	noI := vxlan(101, good)
	noI[0] = 0
	cases := []struct {
		reason Drop
		from   netip.Addr
		d      []byte
	}{
		{DropHeaderShort, addrs[0], []byte{8, 0, 0}},
		{DropHeaderShort, addrs[0], nil},
		{DropHeaderNoVNI, addrs[0], noI},
		{DropHeaderReserved, addrs[0], reserved},
		{DropUnknownVNI, addrs[0], vxlan(102, good)},
		{DropFrameShort, addrs[0], vxlan(101, good[:13])},
		{DropWrongPeer, netip.MustParseAddr("127.0.0.3"), vxlan(101, good)},
		{DropOwnMAC, addrs[0], vxlan(101, change(func(f []byte) { copy(f[6:], macs[1][:]) }))},
		{DropMulticastSource, addrs[0], vxlan(101, change(func(f []byte) { f[6] |= 1 }))},
		{DropSpoofedSource, addrs[0], vxlan(101, change(func(f []byte) { f[27] = 9 }))},
	}
	p := newPair(t, allOffloads)
	d := p.tunnel(101, tun.Offloads{TSO: true, USO: true})
	err := p.e[1].Update(101, Peer{Remote: addrs[0], Local: addrs[1], Sources: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.reason.String(), func(t *testing.T) {
			count := func() uint64 {
				return p.e[1].Stats().Drops[c.reason.String()] + p.e[1].Tunnels()[0].Drops[c.reason.String()]
			}
			before := count()
			p.sendRaw(c.from, c.d)
			eventually(t, "counted", func() bool { return count() == before+1 })
		})
	}
	p.sendRaw(addrs[0], vxlan(101, good))
	if f := receive(t, d[1]); !bytes.Equal(f.Data, good) {
		t.Errorf("the good frame arrived as %x", f.Data)
	}
	if len(d[1].Received()) != 0 {
		t.Error("a bad frame was delivered")
	}
}

// Sources limits IP and ARP, but leaves what address resolution needs.
func TestSources(t *testing.T) {
	p := &peer{Peer: Peer{Sources: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}}
	frame := func(etherType uint16, n int, at int, src string) []byte {
		f := make([]byte, n)
		binary.BigEndian.PutUint16(f[12:], etherType)
		switch etherType {
		case 0x0806:
			f[18], f[19] = 6, 4
		}
		copy(f[at:], netip.MustParseAddr(src).AsSlice())
		return f
	}
	for _, c := range []struct {
		f    []byte
		want bool
	}{
		{frame(0x0800, 34, 26, "10.1.2.3"), true},
		{frame(0x0800, 34, 26, "10.2.2.3"), false},
		{frame(0x0800, 34, 26, "0.0.0.0"), true},
		{frame(0x0806, 42, 28, "10.1.0.1"), true},
		{frame(0x0806, 42, 28, "10.0.0.1"), false},
		{frame(0x86dd, 54, 22, "fe80::1"), true},
		{frame(0x86dd, 54, 22, "::"), true},
		{frame(0x86dd, 54, 22, "fd00::1"), false},
		{frame(0x88cc, 60, 20, "1.2.3.4"), true}, // LLDP has no source to forge
	} {
		if got := p.mayUse(c.f); got != c.want {
			t.Errorf("%x: %v, want %v", c.f, got, c.want)
		}
	}
}

// What the outer header says, as a plain UDP socket in the peer's place sees it.
func TestOuterHeader(t *testing.T) {
	plain := udpFrame(1, []byte("x"))
	ect0 := udpFrame(1, []byte("x"))
	ect0[15] = 0xb8 | 2 // expedited forwarding, ECT(0)
	arp := make([]byte, 42)
	arp[12], arp[13] = 8, 6
	for name, c := range map[string]struct {
		outer    Outer
		frame    []byte
		ttl, tos int
	}{
		"default":              {Outer{}, plain, 64, 0},
		"ECN copied":           {Outer{}, ect0, 64, 2},
		"TTL":                  {Outer{TTL: 7}, plain, 7, 0},
		"TOS":                  {Outer{TOS: 0x28 | 3}, plain, 64, 0x28},
		"TOS with inner ECN":   {Outer{TOS: 0x28}, ect0, 64, 0x28 | 2},
		"inherited":            {Outer{TOS: 0x28, InheritTOS: true}, ect0, 64, 0xb8 | 2},
		"nothing to inherit":   {Outer{TOS: 0x28, InheritTOS: true}, arp, 64, 0x28},
		"all, and DF":          {Outer{TTL: 9, TOS: 4, DF: true}, ect0, 9, 4 | 2},
		"TTL of a super-frame": {Outer{TTL: 9}, nil, 9, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.ListenPacket("udp4", "127.0.0.2:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			pc := ipv4.NewPacketConn(l)
			if err := pc.SetControlMessage(ipv4.FlagTTL, true); err != nil {
				t.Fatal(err)
			}
			if rc, err := l.(*net.UDPConn).SyscallConn(); err != nil {
				t.Fatal(err)
			} else if err := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1) }); err != nil {
				t.Fatal(err)
			}
			e, err := New(Config{Port: l.LocalAddr().(*net.UDPAddr).AddrPort().Port(), Listen: addrs[:1], UDPGSO: true})
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			d := tuntest.New(tuntest.Config{Name: "x"})
			if err := e.Add(Tunnel{VNI: 1, Device: d, Peer: Peer{Remote: addrs[1], Local: addrs[0], Outer: c.outer}}); err != nil {
				t.Fatal(err)
			}
			if f, o := tcpSuper(pattern(3000), 1000); c.frame == nil {
				d.Inject(0, f, o)
			} else {
				d.Inject(0, c.frame, encap.Offload{})
			}
			buf, oob := make([]byte, 9000), make([]byte, 200)
			l.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, n, _, from, err := l.(*net.UDPConn).ReadMsgUDPAddrPort(buf, oob)
			if err != nil {
				t.Fatal(err)
			}
			if from.Addr() != addrs[0] {
				t.Errorf("it came from %s", from)
			}
			got := map[int32]int{}
			eachCmsg(oob[:n], func(_, typ int32, data []byte) { got[typ] = int(data[0]) })
			if got[unix.IP_TTL] != c.ttl || got[unix.IP_TOS] != c.tos {
				t.Errorf("TTL %d TOS %#x, want %d and %#x", got[unix.IP_TTL], got[unix.IP_TOS], c.ttl, c.tos)
			}
		})
	}
}

// A datagram of ours that comes back into the tunnel would be wrapped for ever.
func TestLoop(t *testing.T) {
	p := newPair(t, allOffloads)
	d := p.tunnel(5, tun.Offloads{})
	f := udpFrame(1, []byte("x"))
	copy(f[30:34], addrs[1].AsSlice())
	binary.BigEndian.PutUint16(f[36:], p.port)
	d[0].Inject(0, f, encap.Offload{})
	eventually(t, "counted", func() bool { return p.e[0].Tunnels()[0].Drops["loop"] == 1 })
	if n := p.e[0].Tunnels()[0].Tx.Frames; n != 0 {
		t.Errorf("%d frames were sent", n)
	}
}
