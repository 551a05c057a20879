// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Descriptors lists those of a device's queues, in their order; nil for a device
// without. They stay the device's, which closes them. A copy of one, kept by
// somebody else, keeps the device's carrier up and its queue with what is in it
// after Close: see Options.Held.
func Descriptors(d Device) []int {
	var fds []int
	for _, q := range d.Queues() {
		p, ok := q.(Pollable)
		if !ok {
			return nil
		}
		fds = append(fds, p.Descriptor())
	}
	return fds
}

// attached is TUNGETIFF's answer: what device a descriptor belongs to. A deleted
// device's descriptor gives EBADFD.
func attached(f *os.File) (name string, flags uint16, err error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", 0, err
	}
	rc, err := f.SyscallConn()
	if err != nil {
		return "", 0, err
	}
	cerr := rc.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr) })
	if err = errors.Join(cerr, err); err != nil {
		return "", 0, err
	}
	return ifr.Name(), ifr.Uint16(), nil
}

// usable reports whether the held descriptors are the whole of a device as it is
// wanted: its queues, attached, and as many as asked for.
func usable(name string, held []*os.File, queues int) bool {
	if len(held) != queues {
		return false
	}
	const want = unix.IFF_TAP | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR
	for _, f := range held {
		is, flags, err := attached(f)
		// A queue that was detached carries nothing (TUNSETQUEUE).
		if err != nil || is != name || flags&want != want || flags&unix.IFF_DETACH_QUEUE != 0 {
			return false
		}
	}
	l, err := netlink.LinkByName(name)
	t, ok := l.(*netlink.Tuntap)
	// Others beside them would get frames that nobody reads.
	return err == nil && ok && t.Queues == queues && t.DisabledQueues == 0
}

// letGo detaches the held descriptors' queues, so that the kernel gives them no
// more frames though others may hold copies, and closes them.
func letGo(name string, held []*os.File) {
	for _, f := range held {
		if is, _, err := attached(f); err == nil && is == name {
			if ifr, err := unix.NewIfreq(name); err == nil {
				ifr.SetUint16(unix.IFF_DETACH_QUEUE)
				if rc, err := f.SyscallConn(); err == nil {
					_ = rc.Control(func(fd uintptr) { _ = unix.IoctlIfreq(int(fd), unix.TUNSETQUEUE, ifr) })
				}
			}
		}
		f.Close()
	}
}

// openQueues gives a descriptor for each queue: the held ones when they fit, else
// new ones.
func openQueues(name string, o Options) ([]*os.File, netlink.Link, error) {
	if usable(name, o.Held, o.Queues) {
		l, err := netlink.LinkByName(name)
		if err != nil {
			for _, f := range o.Held {
				f.Close()
			}
			return nil, nil, err
		}
		return o.Held, l, nil
	}
	letGo(name, o.Held)
	if err := checkExisting(name, len(o.Held) > 0); err != nil {
		return nil, nil, err
	}
	link := &netlink.Tuntap{
		LinkAttrs:  netlink.LinkAttrs{Name: name},
		Mode:       netlink.TUNTAP_MODE_TAP,
		Flags:      tapFlags,
		Queues:     o.Queues,
		NonPersist: true, // set by openTAP, when all else went well
	}
	if err := netlink.LinkAdd(link); err != nil {
		return nil, nil, explainOpen(err)
	}
	if len(link.Fds) != o.Queues {
		for _, f := range link.Fds {
			f.Close()
		}
		return nil, nil, fmt.Errorf("the kernel gave %d queues, not %d", len(link.Fds), o.Queues)
	}
	return link.Fds, link, nil
}
