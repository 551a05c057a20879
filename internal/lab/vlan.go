// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// VLAN is an 802.1Q interface on top of a device, for kernels that have no
// 8021q driver: a TAP, and between it and the device's packet socket two
// goroutines that put tags in and take them out.
//
//	IP stack -- TAP (name)  <-->  tag  <-->  packet socket on the lower device
//
// Super-frames and unfinished checksums pass in both directions, described by
// virtio's net header as the kernel's own driver passes them.
type VLAN struct {
	tap, lower *os.File
	tci        [4]byte // tag as it stands in the frame
	wg         sync.WaitGroup
}

// Sizes of struct virtio_net_hdr and of the two MAC addresses, before which and
// after which a tag goes.
const (
	vnetLen = 10
	macsLen = 12
)

// AddVLAN makes a VLAN interface of the given id (1 to 4094) on a device of the
// node and sets it up. Its MTU is the lower device's: VLAN-tagged frames are 4
// bytes longer, as on a cable. Close it before the node.
func (n *Node) AddVLAN(lower, name string, id int) (*VLAN, error) {
	if id < 1 || id > 4094 {
		return nil, fmt.Errorf("lab: VLAN id %d: must be 1..4094", id)
	}
	l, err := Port{n, lower}.Link()
	if err != nil {
		return nil, err
	}
	v := &VLAN{}
	binary.BigEndian.PutUint16(v.tci[:], unix.ETH_P_8021Q)
	binary.BigEndian.PutUint16(v.tci[2:], uint16(id))
	err = n.Do(func() error {
		if v.tap, err = openVnetTAP(name); err != nil {
			return err
		}
		fd, err := packetSocket(l.Attrs().Index)
		if err != nil {
			return err
		}
		v.lower = os.NewFile(uintptr(fd), "VLAN on "+lower)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return fmt.Errorf("PACKET_VNET_HDR: %w", err)
		}
		return nil
	})
	if err == nil {
		err = n.SetMTU(name, l.Attrs().MTU)
	}
	if err == nil {
		// Frames for the TAP's own MAC must not be taken for another machine's
		// by the lower device, so both have the same.
		err = n.sameMAC(name, lower)
	}
	if err == nil {
		err = n.SetUp(name)
	}
	if err != nil {
		v.closeFiles()
		return nil, fmt.Errorf("lab: node %s: VLAN %d on %s: %w", n.name, id, lower, err)
	}
	v.wg.Add(2)
	go v.down()
	go v.up()
	return v, nil
}

func (n *Node) sameMAC(device, as string) error {
	from, err := Port{n, as}.Link()
	if err != nil {
		return err
	}
	to, err := Port{n, device}.Link()
	if err != nil {
		return err
	}
	return n.handle.LinkSetHardwareAddr(to, from.Attrs().HardwareAddr)
}

// openVnetTAP opens a TAP with virtio net headers and TCP super-frames.
func openVnetTAP(name string) (*os.File, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", tunPath, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make TAP %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Close removes the interface.
func (v *VLAN) Close() error {
	err := v.closeFiles()
	v.wg.Wait()
	return err
}

func (v *VLAN) closeFiles() error {
	var errs []error
	for _, f := range []*os.File{v.tap, v.lower} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// down puts tags in: from the TAP to the device below.
func (v *VLAN) down() {
	defer v.wg.Done()
	in := make([]byte, maxFrame)
	out := make([]byte, 0, maxFrame)
	for {
		n, err := v.tap.Read(in)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil || n < vnetLen+macsLen+2 {
			continue // the interface is down
		}
		const head = vnetLen + macsLen
		out = append(append(append(out[:0], in[:head]...), v.tci[:]...), in[head:n]...)
		shiftVnet(out, +4)
		// A refusal is a lost frame, as on a cable.
		_, _ = v.lower.Write(out)
	}
}

// up takes tags out: from the device below to the TAP. Frames of other VLANs,
// untagged ones and those that this machine sends are not for it.
func (v *VLAN) up() {
	defer v.wg.Done()
	raw, err := v.lower.SyscallConn()
	if err != nil {
		return
	}
	buf, oob := make([]byte, maxFrame), make([]byte, 256)
	for {
		var n int
		var mine bool
		var recvErr error
		err := raw.Read(func(fd uintptr) bool {
			n, mine, recvErr = v.receive(int(fd), buf, oob)
			return !errors.Is(recvErr, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if recvErr == nil && mine {
			// A refusal is a lost frame, as on a cable.
			_, _ = v.tap.Write(buf[:n])
		}
	}
}

// receive takes a frame, without its tag, and says whether it is of this VLAN.
func (v *VLAN) receive(fd int, buf, oob []byte) (int, bool, error) {
	n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
	if err != nil {
		return 0, false, err
	}
	ll, ok := from.(*unix.SockaddrLinklayer)
	if !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < vnetLen+macsLen+2 {
		return 0, false, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, false, err
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA {
			tag, ok := vlanTag(m.Data)
			return n, ok && tag == v.tci, nil
		}
	}
	return 0, false, nil
}

// vlanTag is the tag that the kernel took out of a frame (struct
// tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid).
func vlanTag(aux []byte) (tag [4]byte, ok bool) {
	if len(aux) < 20 || binary.NativeEndian.Uint32(aux)&unix.TP_STATUS_VLAN_VALID == 0 {
		return tag, false
	}
	binary.BigEndian.PutUint16(tag[:], binary.NativeEndian.Uint16(aux[18:]))
	binary.BigEndian.PutUint16(tag[2:], binary.NativeEndian.Uint16(aux[16:]))
	return tag, true
}

// shiftVnet moves the offsets of a virtio net header (hdr_len, csum_start) by
// what was put in front of the headers they point behind.
func shiftVnet(b []byte, by int) {
	const needsCsum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	move := func(at int) {
		binary.NativeEndian.PutUint16(b[at:], uint16(int(binary.NativeEndian.Uint16(b[at:]))+by))
	}
	if b[1] != 0 { // gso_type
		move(2)
	}
	if b[0]&needsCsum != 0 {
		move(6)
	}
}
