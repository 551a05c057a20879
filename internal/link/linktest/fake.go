// SPDX-License-Identifier: Apache-2.0

package linktest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"kohaku/internal/link"
)

// Fake is a machine's network in memory, with the methods of link.Kernel. It is
// safe for concurrent use.
type Fake struct {
	mu       sync.Mutex
	index    int
	devices  map[string]*link.Info
	routes   map[string]string // by device: "DST via GW"
	sysctls  map[string]string
	uses     []link.Use
	paths    map[netip.Addr]link.Path
	failures map[string]error
	changes  int
	watchers map[chan struct{}]bool
}

// NewFake makes a machine without devices that reaches every address from local
// over eth0 with the given MTU.
func NewFake(local netip.Addr, mtu int) *Fake {
	f := &Fake{
		devices: make(map[string]*link.Info), routes: make(map[string]string), sysctls: make(map[string]string),
		paths: make(map[netip.Addr]link.Path), failures: make(map[string]error), watchers: make(map[chan struct{}]bool),
	}
	f.paths[netip.Addr{}] = link.Path{Local: local, Device: "eth0", MTU: mtu}
	return f
}

// SetPath changes how an address is reached; the zero address stands for all that
// have no path of their own.
func (f *Fake) SetPath(to netip.Addr, p link.Path) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paths[to] = p
	f.tell()
}

// Watch is link.Kernel's.
func (f *Fake) Watch(ctx context.Context) (<-chan struct{}, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["Watch"]; err != nil {
		return nil, &link.Error{Op: "watch the network", Err: err}
	}
	ch := make(chan struct{}, 1)
	f.watchers[ch] = true
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, ch)
		close(ch)
	})
	return ch, nil
}

// tell wakes the watchers. Guarded by mu.
func (f *Fake) tell() {
	for ch := range f.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// SetUses sets what Uses lists, over and above what the skipped devices have.
func (f *Fake) SetUses(uses ...link.Use) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.uses = uses
}

// Fail makes an operation on a device ("EnsureUp vxkr1") answer err, or work again
// with a nil err.
func (f *Fake) Fail(operation string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failures[operation] = err
}

// Put makes or replaces a device; Index is chosen when it is 0.
func (f *Fake) Put(d link.Info) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(d)
}

func (f *Fake) put(d link.Info) *link.Info {
	if d.Index == 0 {
		f.index++
		d.Index = f.index
	}
	f.devices[d.Name] = &d
	f.changes++
	f.tell()
	return &d
}

// Changes counts what was changed so far.
func (f *Fake) Changes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changes
}

// Sysctl gives the value of a setting, empty when nobody set it.
func (f *Fake) Sysctl(path string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sysctls[path]
}

// Route gives "DST via GW" of the device's route, empty when it has none.
func (f *Fake) Route(device string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.routes[device]
}

// Get gives a device and whether it exists.
func (f *Fake) Get(name string) (link.Info, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d, ok := f.devices[name]
	if !ok {
		return link.Info{}, false
	}
	return *d, true
}

// change runs an operation on an existing device under the lock.
func (f *Fake) change(op, device string, do func(d *link.Info) bool) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures[op+" "+device]; err != nil {
		return false, &link.Error{Op: op, Device: device, Err: err}
	}
	d, ok := f.devices[device]
	if !ok {
		return false, &link.Error{Op: op, Device: device, Err: link.ErrNotFound}
	}
	changed := do(d)
	if changed {
		f.changes++
		f.tell()
	}
	return changed, nil
}

// Devices is link.Kernel's.
func (f *Fake) Devices() ([]link.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []link.Info
	for _, d := range f.devices {
		c := *d
		c.Addrs = slices.Clone(d.Addrs)
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b link.Info) int { return a.Index - b.Index })
	return all, nil
}

// Device is link.Kernel's.
func (f *Fake) Device(name string) (link.Info, error) {
	d, ok := f.Get(name)
	if !ok {
		return link.Info{}, &link.Error{Op: "look up the device", Device: name, Err: link.ErrNotFound}
	}
	return d, nil
}

// EnsureBridge is link.Kernel's.
func (f *Fake) EnsureBridge(name string, mac net.HardwareAddr) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["EnsureBridge "+name]; err != nil {
		return false, &link.Error{Op: "make the bridge", Device: name, Err: err}
	}
	if d, ok := f.devices[name]; ok {
		if d.Type != "bridge" {
			return false, &link.Error{Op: "make the bridge", Device: name, Err: fmt.Errorf("a device of type %s has that name", d.Type)}
		}
		return false, nil
	}
	f.put(link.Info{Name: name, Type: "bridge", MAC: mac, MTU: 1500})
	return true, nil
}

// EnsureHostAddressDevice is link.Kernel's, on a kernel without dummy devices.
func (f *Fake) EnsureHostAddressDevice(name string, mac net.HardwareAddr) (bool, error) {
	return f.EnsureBridge(name, mac)
}

// EnsureMaster is link.Kernel's.
func (f *Fake) EnsureMaster(device, bridge string) (bool, error) {
	b, err := f.Device(bridge)
	if err != nil {
		return false, err
	}
	return f.change("EnsureMaster", device, func(d *link.Info) bool {
		was := d.Master
		d.Master = b.Index
		return was != d.Master
	})
}

// EnsureUp is link.Kernel's.
func (f *Fake) EnsureUp(device string) (bool, error) {
	return f.change("EnsureUp", device, func(d *link.Info) bool {
		was := d.Up
		d.Up = true
		return !was
	})
}

// EnsureNoQueue is link.Kernel's. Whether a device has a queue is not kept.
func (f *Fake) EnsureNoQueue(device string) (bool, error) {
	return f.change("EnsureNoQueue", device, func(*link.Info) bool { return false })
}

// EnsureMTU is link.Kernel's.
func (f *Fake) EnsureMTU(device string, mtu int) (bool, error) {
	return f.change("EnsureMTU", device, func(d *link.Info) bool {
		was := d.MTU
		d.MTU = mtu
		return was != mtu
	})
}

// EnsureAlias is link.Kernel's.
func (f *Fake) EnsureAlias(device string, alias link.Alias) (bool, error) {
	return f.change("EnsureAlias", device, func(d *link.Info) bool {
		was := d.Alias
		d.Alias = alias.String()
		return was != d.Alias
	})
}

// EnsureAddrs is link.Kernel's.
func (f *Fake) EnsureAddrs(device string, want []netip.Prefix, stale func(netip.Prefix) bool) (bool, error) {
	return f.change("EnsureAddrs", device, func(d *link.Info) bool {
		was := slices.Clone(d.Addrs)
		d.Addrs = slices.DeleteFunc(slices.Clone(d.Addrs), func(p netip.Prefix) bool {
			return stale != nil && !slices.Contains(want, p) && stale(p)
		})
		for _, p := range want {
			if !slices.Contains(d.Addrs, p) {
				d.Addrs = append(d.Addrs, p)
			}
		}
		return !slices.Equal(was, d.Addrs)
	})
}

// EnsureRoute is link.Kernel's.
func (f *Fake) EnsureRoute(device string, dst netip.Prefix, via netip.Addr) (bool, error) {
	return f.change("EnsureRoute", device, func(*link.Info) bool {
		was := f.routes[device]
		f.routes[device] = dst.String() + " via " + via.String()
		return was != f.routes[device]
	})
}

// EnsureSysctl is link.Kernel's. Every setting exists, but for those that Fail was
// told about.
func (f *Fake) EnsureSysctl(path, value string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["EnsureSysctl "+path]; err != nil {
		return false, &link.Error{Op: "set sysctl " + path, Err: err}
	}
	was := f.sysctls[path]
	f.sysctls[path] = value
	if was != value {
		f.changes++
	}
	return was != value, nil
}

// Delete is link.Kernel's.
func (f *Fake) Delete(device string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.failures["Delete "+device]; err != nil {
		return &link.Error{Op: "delete the device", Device: device, Err: err}
	}
	if gone, ok := f.devices[device]; ok {
		// As the kernel does with a bridge's ports.
		for _, d := range f.devices {
			if d.Master == gone.Index {
				d.Master = 0
			}
		}
		f.changes++
		f.tell()
	}
	delete(f.devices, device)
	delete(f.routes, device)
	return nil
}

// PathTo is link.Kernel's. A path without a local address is no route.
func (f *Fake) PathTo(to netip.Addr) (link.Path, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.paths[to]
	if !ok {
		p = f.paths[netip.Addr{}]
		p.Own = p.Local == to
	}
	if !p.Local.IsValid() {
		return link.Path{}, &link.Error{Op: "find the route to " + to.String(), Err: fmt.Errorf("%w", unix.ENETUNREACH)}
	}
	return p, nil
}

// DefaultMTU is link.Kernel's: the MTU of the path to everywhere.
func (f *Fake) DefaultMTU() (int, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.paths[netip.Addr{}]
	return p.MTU, p.Local.IsValid()
}

// Uses is link.Kernel's: what SetUses said, but for skipped devices.
func (f *Fake) Uses(skip func(string) bool) ([]link.Use, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.uses), func(u link.Use) bool { return skip(u.Device) }), nil
}
