// SPDX-License-Identifier: Apache-2.0

package tun

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Options says what OpenTAP is to make.
type Options struct {
	// Queues is the number of queues, 1 to MaxQueues; 0 means DefaultQueues().
	Queues int
	// MTU is the device's MTU, in bytes; 0 leaves it as it is.
	MTU int
	// HardwareAddr is the device's MAC address; nil leaves it as it is.
	HardwareAddr net.HardwareAddr
	// TSO and USO ask for super-frames. What the kernel does not offer is
	// left out; Device.Offloads says what came of it.
	TSO, USO bool
	// SuperFrame limits TCP super-frames that the kernel passes in, in bytes, by
	// the device's gso_max_size; 0 leaves the kernel's 65536. It is for devices
	// that the machine routes into: what a bridge forwards was made for another
	// device, and the kernel would cut what is larger into single frames.
	SuperFrame int
	// Persist lets the device outlive the process. A device without it
	// vanishes with Close.
	Persist bool
	// Held are descriptors of the device's queues that somebody kept for this
	// process (see Descriptors). If they fit what is asked for,
	// the device goes on where the process before us left it, with the frames
	// that are queued in it; else they are given up, and whoever keeps copies is
	// to drop them. OpenTAP owns them either way.
	Held []*os.File
}

// MaxQueues is the most queues that OpenTAP opens. The kernel would allow 256
// (MAX_TAP_QUEUES in drivers/net/tun.c); more than cores are of no use.
const MaxQueues = 64

// DefaultQueues is how many queues are of use: more of them than cores slow
// things down, and on two cores one queue was faster than two.
func DefaultQueues() int {
	return min(max(runtime.NumCPU()/2, 1), 8)
}

// OpenTAP creates the TAP device name, or attaches to the persistent one that
// a process before us left, and opens its queues. An existing device of
// another kind, one with another queue layout or one that another process
// holds is not touched; the error says so and wraps ErrInUse or ErrNotTAP. It
// needs CAP_NET_ADMIN in the network namespace and read and write access to
// /dev/net/tun.
//
// The device is left down, without addresses and alias, if it is new: those
// are the business of whoever manages links.
func OpenTAP(name string, o Options) (Device, error) {
	d, err := openTAP(name, o)
	if err != nil {
		return nil, fmt.Errorf("open TAP device %s: %w", name, err)
	}
	return d, nil
}

// Errors of OpenTAP, for errors.Is.
var (
	ErrInUse  = errors.New("the device is in use by another process")
	ErrNotTAP = errors.New("a device of that name exists and is of another kind")
)

const tapFlags = netlink.TUNTAP_MULTI_QUEUE_DEFAULTS | netlink.TUNTAP_VNET_HDR

func openTAP(name string, o Options) (_ *tap, err error) {
	if o.Queues == 0 {
		o.Queues = DefaultQueues()
	}
	if o.Queues < 1 || o.Queues > MaxQueues {
		err = fmt.Errorf("%d queues: must be 1..%d", o.Queues, MaxQueues)
	} else if l := len(name); l == 0 || l >= unix.IFNAMSIZ {
		err = fmt.Errorf("a device's name has 1 to %d bytes", unix.IFNAMSIZ-1)
	}
	if err != nil {
		letGo(name, o.Held)
		return nil, err
	}
	files, link, err := openQueues(name, o)
	if err != nil {
		return nil, err
	}
	d := &tap{name: name}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	// Go's own poller has registered the files. It would be woken for every
	// frame, beside whoever waits here, so the descriptors are taken from it.
	for _, f := range files {
		q, qerr := newTAPQueue(d, f)
		if qerr != nil {
			err = errors.Join(err, qerr)
			continue
		}
		d.queues = append(d.queues, q)
	}
	if err != nil {
		return nil, err
	}
	if d.offloads, err = d.setOffloads(o.TSO, o.USO); err != nil {
		return nil, err
	}

	if o.HardwareAddr != nil {
		if err := netlink.LinkSetHardwareAddr(link, o.HardwareAddr); err != nil {
			return nil, fmt.Errorf("set MAC address %s: %w", o.HardwareAddr, err)
		}
	}
	if o.MTU != 0 {
		if err := netlink.LinkSetMTU(link, o.MTU); err != nil {
			return nil, fmt.Errorf("set MTU %d: %w", o.MTU, err)
		}
	}
	if o.SuperFrame != 0 {
		if err := netlink.LinkSetGSOMaxSize(link, o.SuperFrame); err != nil {
			return nil, fmt.Errorf("set gso_max_size %d: %w", o.SuperFrame, err)
		}
	}
	now, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	copy(d.mac[:], now.Attrs().HardwareAddr)
	err = d.control(0, func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, b2i(o.Persist)) })
	if err != nil {
		return nil, fmt.Errorf("set persistence: %w", err)
	}
	return d, nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// checkExisting finds out whether name is free or a TAP that can be taken
// over. Attaching blindly would not do: on a multi-queue device the kernel
// would let us in beside a process that is at work on it, and both would get
// half of the frames.
//
// held says that we had descriptors of it, whose copies may still be around; they
// are detached.
func checkExisting(name string, held bool) error {
	l, err := netlink.LinkByName(name)
	var notFound netlink.LinkNotFoundError
	switch {
	case errors.As(err, &notFound):
		return nil
	case err != nil:
		return err
	}
	t, ok := l.(*netlink.Tuntap)
	if !ok || t.Mode != netlink.TUNTAP_MODE_TAP {
		return fmt.Errorf("%w: it is of type %s; delete it (ip link delete %s) or choose another name", ErrNotTAP, l.Type(), name)
	}
	if t.Flags&netlink.TUNTAP_MULTI_QUEUE == 0 || t.Flags&netlink.TUNTAP_VNET_HDR == 0 {
		return fmt.Errorf("%w: it lacks multi_queue or vnet_hdr; delete it (ip link delete %s) and try again", ErrNotTAP, name)
	}
	n := t.Queues
	if !held {
		n += t.DisabledQueues
	}
	if n > 0 {
		return fmt.Errorf("%w: %d of its queues are open; is a kohaku daemon running already?", ErrInUse, n)
	}
	return nil
}

func explainOpen(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: the kernel has no TUN/TAP driver here; load it (modprobe tun) or make /dev/net/tun available", err)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: /dev/net/tun is closed to this user; run as root, or give it its usual mode (chmod 0666 /dev/net/tun)", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: creating a device needs CAP_NET_ADMIN; run as root", err)
	}
	return err
}

type tap struct {
	name     string
	mac      [6]byte
	offloads Offloads
	queues   []Queue

	closeOnce sync.Once
	closeErr  error
}

func (d *tap) Name() string          { return d.name }
func (d *tap) Queues() []Queue       { return d.queues }
func (d *tap) HardwareAddr() [6]byte { return d.mac }
func (d *tap) Offloads() Offloads    { return d.offloads }

func (d *tap) Close() error {
	d.closeOnce.Do(func() {
		for _, q := range d.queues {
			d.closeErr = errors.Join(d.closeErr, q.(*tapQueue).close())
		}
	})
	return d.closeErr
}

// control runs fn with the descriptor of queue i.
func (d *tap) control(i int, fn func(fd int) error) error {
	q := d.queues[i].(*tapQueue)
	q.rmu.Lock()
	defer q.rmu.Unlock()
	if q.closed.Load() {
		return net.ErrClosed
	}
	return fn(q.fd)
}

// setOffloads asks for the most first and for less when the kernel refuses.
// The mask belongs to the device and outlives its owner, so it is set at every
// attach, also to nothing. The header's length likewise.
func (d *tap) setOffloads(tso, uso bool) (Offloads, error) {
	const (
		csum   = unix.TUN_F_CSUM
		tsoAll = unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
		// The kernel takes the two only together.
		usoAll = unix.TUN_F_USO4 | unix.TUN_F_USO6
	)
	for i := range d.queues {
		err := d.control(i, func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHdrLen) })
		if err != nil {
			return Offloads{}, fmt.Errorf("set the length of the virtio header: %w", err)
		}
	}
	var err error
	for _, try := range []Offloads{{tso, uso}, {tso, false}, {false, false}} {
		mask := csum
		if try.TSO {
			mask |= tsoAll
		}
		if try.USO {
			mask |= usoAll
		}
		if err = d.control(0, func(fd int) error { return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, mask) }); err == nil {
			return try, nil
		}
	}
	return Offloads{}, fmt.Errorf("set offloads: %w", err)
}
