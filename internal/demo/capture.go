// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"kohaku/internal/lab"
)

// Endpoint is one end of a layer.
type Endpoint struct {
	MAC  string     `json:"mac"`
	Addr netip.Addr `json:"address"`
	Port uint16     `json:"port,omitempty"`
}

// Outer is one VXLAN datagram as a machine between the ends sees it.
type Outer struct {
	From      Endpoint `json:"from"`
	To        Endpoint `json:"to"`
	TTL       uint8    `json:"ttl"`
	Length    int      `json:"length"` // bytes of the whole outer frame
	UDPSum    uint16   `json:"udp_checksum"`
	VNI       uint32   `json:"vni"`
	InnerFrom Endpoint `json:"inner_from"`
	InnerTo   Endpoint `json:"inner_to"`
	InnerTTL  uint8    `json:"inner_ttl"`
	Inner     string   `json:"inner"` // what is inside: "ICMPv4 EchoRequest", "TCP", ...
}

func (o Outer) String() string {
	return fmt.Sprintf("%s:%d > %s:%d UDP, VXLAN VNI %d, %d bytes, inside: %s > %s %s TTL %d",
		o.From.Addr, o.From.Port, o.To.Addr, o.To.Port, o.VNI, o.Length, o.InnerFrom.Addr, o.InnerTo.Addr, o.Inner, o.InnerTTL)
}

// decodeOuter reads an Ethernet frame that carries VXLAN to UDP port. ok is
// false for everything else, also for VXLAN whose inner frame is not IPv4.
func decodeOuter(frame []byte, port uint16) (o Outer, ok bool) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	stack := p.Layers()
	if len(stack) < 3 {
		return o, false
	}
	eth, ok1 := stack[0].(*layers.Ethernet)
	ip, ok2 := stack[1].(*layers.IPv4)
	udp, ok3 := stack[2].(*layers.UDP)
	if !ok1 || !ok2 || !ok3 || uint16(udp.DstPort) != port {
		return o, false
	}
	o = Outer{
		From:   Endpoint{eth.SrcMAC.String(), addr(ip.SrcIP), uint16(udp.SrcPort)},
		To:     Endpoint{eth.DstMAC.String(), addr(ip.DstIP), uint16(udp.DstPort)},
		TTL:    ip.TTL,
		Length: len(frame),
		UDPSum: udp.Checksum,
	}
	// The payload is decoded as VXLAN by hand, so that a port other than 4789
	// is read as well.
	inner := gopacket.NewPacket(udp.Payload, layers.LayerTypeVXLAN, gopacket.NoCopy).Layers()
	if len(inner) < 3 {
		return o, false
	}
	vx, ok1 := inner[0].(*layers.VXLAN)
	ieth, ok2 := inner[1].(*layers.Ethernet)
	iip, ok3 := inner[2].(*layers.IPv4)
	if !ok1 || !ok2 || !ok3 || !vx.ValidIDFlag {
		return o, false
	}
	o.VNI = vx.VNI
	o.InnerFrom = Endpoint{MAC: ieth.SrcMAC.String(), Addr: addr(iip.SrcIP)}
	o.InnerTo = Endpoint{MAC: ieth.DstMAC.String(), Addr: addr(iip.DstIP)}
	o.InnerTTL = iip.TTL
	o.Inner = iip.Protocol.String()
	if len(inner) > 3 {
		switch l := inner[3].(type) {
		case *layers.ICMPv4:
			o.Inner = "ICMPv4 " + l.TypeCode.String()
		case *layers.TCP:
			o.Inner = "TCP"
			o.InnerFrom.Port, o.InnerTo.Port = uint16(l.SrcPort), uint16(l.DstPort)
		case *layers.UDP:
			o.Inner = "UDP"
			o.InnerFrom.Port, o.InnerTo.Port = uint16(l.SrcPort), uint16(l.DstPort)
		}
	}
	return o, true
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// watch keeps the VXLAN datagrams that pass a switch's port while f runs.
func watch(p lab.Port, port uint16, f func() error) ([]Outer, error) {
	c, err := p.Capture(func(k lab.Packet) bool {
		_, ok := decodeOuter(k.Data, port)
		return ok
	})
	if err != nil {
		return nil, err
	}
	err = f()
	packets, stopErr := c.Stop()
	if err := errors.Join(err, stopErr); err != nil {
		return nil, err
	}
	var out []Outer
	for _, k := range packets {
		o, _ := decodeOuter(k.Data, port)
		out = append(out, o)
	}
	return out, nil
}
