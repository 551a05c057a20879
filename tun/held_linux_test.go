// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// keepCopies is what a descriptor store does.
func keepCopies(t *testing.T, d Device) []int {
	t.Helper()
	var copies []int
	for _, fd := range Descriptors(d) {
		c, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(c) })
		copies = append(copies, c)
	}
	return copies
}

// passed is what the next process gets of the store.
func passed(t *testing.T, copies []int) []*os.File {
	t.Helper()
	var files []*os.File
	for _, fd := range copies {
		c, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, os.NewFile(uintptr(c), "held"))
	}
	return files
}

func carrier(t *testing.T, name string) bool {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// sendFrame has the kernel send a frame of its own out of a device.
func sendFrame(t *testing.T, name string, mark byte) {
	t.Helper()
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	frame := append([]byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, mark, 0x88, 0xb5}, make([]byte, 46)...)
	if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
		t.Fatal(err)
	}
}

func marked(mark byte) func([]byte) bool {
	return func(b []byte) bool { return b[11] == mark && b[12] == 0x88 && b[13] == 0xb5 }
}

// A store keeps the carrier, and what arrives meanwhile, until the next process
// takes the device over.
func TestHeld(t *testing.T) {
	d := open(t, "held0", Options{Queues: 1, MTU: 1450, TSO: true, USO: true, Persist: true})
	t.Cleanup(func() { removeLink(t, "held0") })
	up(t, "held0")
	copies := keepCopies(t, d)
	d.Close()
	if !carrier(t, "held0") {
		t.Fatal("the device has lost its carrier while its descriptors were kept")
	}
	// Who was not handed them is kept out.
	if _, err := OpenTAP("held0", Options{Queues: 1, Persist: true}); !errors.Is(err, ErrInUse) {
		t.Errorf("without them: %v", err)
	}
	sendFrame(t, "held0", 0x51)
	d = open(t, "held0", Options{Queues: 1, MTU: 1400, TSO: true, USO: true, Persist: true, Held: passed(t, copies)})
	readAll(t, d.Queues()[0], 1, marked(0x51)) // what was sent while nobody was there
	sendFrame(t, "held0", 0x52)
	readAll(t, d.Queues()[0], 1, marked(0x52))
	if l := up(t, "held0"); l.Attrs().MTU != 1400 {
		t.Errorf("MTU %d", l.Attrs().MTU)
	}
	if o := d.Offloads(); !o.TSO {
		t.Errorf("offloads: %+v", o)
	}
}

// Descriptors that do not fit, since the settings have changed, are given up though
// copies are still around, and no frame goes to them any more.
func TestHeldWithOtherQueues(t *testing.T) {
	for from, to := range map[int]int{1: 2, 2: 1} {
		d := open(t, "held1", Options{Queues: from, Persist: true})
		up(t, "held1")
		copies := keepCopies(t, d)
		d.Close()
		d = open(t, "held1", Options{Queues: to, Persist: true, Held: passed(t, copies)})
		if n := len(d.Queues()); n != to {
			t.Errorf("%d queues, want %d", n, to)
		}
		l, err := netlink.LinkByName("held1")
		if err != nil {
			t.Fatal(err)
		}
		if tap := l.(*netlink.Tuntap); tap.Queues != to || !carrier(t, "held1") {
			t.Errorf("the kernel uses %d queues; carrier %v", tap.Queues, carrier(t, "held1"))
		}
		d.Close()
		for _, c := range copies {
			unix.Close(c)
		}
		removeLink(t, "held1")
	}
}

// The device was deleted meanwhile: what was kept is worth nothing.
func TestHeldOfDeletedDevice(t *testing.T) {
	d := open(t, "held2", Options{Queues: 1, Persist: true})
	copies := keepCopies(t, d)
	d.Close()
	removeLink(t, "held2")
	d = open(t, "held2", Options{Queues: 1, Persist: true, Held: passed(t, copies)})
	defer removeLink(t, "held2")
	up(t, "held2")
	sendFrame(t, "held2", 0x53)
	readAll(t, d.Queues()[0], 1, marked(0x53))
}

func TestHeldAreClosedOnError(t *testing.T) {
	d := open(t, "held3", Options{Queues: 1})
	files := passed(t, keepCopies(t, d))
	if _, err := OpenTAP("held3", Options{Queues: MaxQueues + 1, Held: files}); err == nil {
		t.Fatal("too many queues are opened")
	}
	if err := files[0].Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("descriptors are left open: %v", err)
	}
}

func removeLink(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		t.Error(err)
	}
}
