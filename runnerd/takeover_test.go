// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"errors"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
	"kohaku/internal/takeover"
)

// kernelVXLAN is a takeover.System with one device, which stands in a fake kernel.
type kernelVXLAN struct {
	kernel *linktest.Fake
	device takeover.Device
	bridge takeover.Bridge
}

func (k *kernelVXLAN) put() {
	b, _ := k.kernel.Get("kohaku-overlay")
	k.kernel.Put(link.Info{Name: k.device.Name, Type: "vxlan", MTU: k.device.MTU, Up: true, Master: b.Index})
}

func (k *kernelVXLAN) Find() ([]takeover.Device, error) {
	if d, ok := k.kernel.Get(k.device.Name); ok && d.Type == "vxlan" {
		return []takeover.Device{k.device}, nil
	}
	return nil, nil
}

func (k *kernelVXLAN) Bridge(string) (takeover.Bridge, error) { return k.bridge, nil }

func (k *kernelVXLAN) Remove(devices []takeover.Device) (func() error, error) {
	for _, d := range devices {
		if err := k.kernel.Delete(d.Name); err != nil {
			return nil, err
		}
	}
	return func() error { k.put(); return nil }, nil
}

// newMigrating is a world whose kernel has the guide's vxlan0 in its bridge.
func newMigrating(t *testing.T) (*world, *kernelVXLAN) {
	w := newWorld(t)
	k := &kernelVXLAN{
		kernel: w.kernel,
		device: takeover.Device{Name: "vxlan0", VNI: 101, Remote: hostAddr, Local: ownAddr, Port: 4789, Up: true, MTU: 1450, Master: "kohaku-overlay"},
		bridge: takeover.Bridge{Addrs: prefixes("10.1.0.1/16")},
	}
	w.kernel.Put(link.Info{Name: "kohaku-overlay", Type: "bridge", MTU: 1450, Up: true, Addrs: prefixes("10.1.0.1/16")})
	k.put()
	w.takeover = k
	return w, k
}

// The kernel's device is replaced before the Host was asked, and the id is told to
// it.
func TestTakeOverFromTheKernel(t *testing.T) {
	w, _ := newMigrating(t)
	w.host.change(func() { w.host.refuse = refusal(http.StatusConflict, "not now") })
	w.startReady()
	d, bridge := w.device("vxlan0"), w.device("kohaku-overlay")
	if d.Type != "tap" || d.Master != bridge.Index || d.MTU != 1450 || !d.Up {
		t.Errorf("vxlan0 is %+v", d)
	}
	if a, err := link.ParseAlias(d.Alias); err != nil || a.VNI != 101 || a.ID != 1 || a.Remote != hostAddr || a.Subnet != plan {
		t.Errorf("alias %q", d.Alias)
	}
	if w.kernel.Sysctl("net/ipv4/conf/kohaku-overlay/arp_notify") != "1" {
		t.Error("containers are not told of the bridge's MAC")
	}
	wire, ok := w.machine.Plane().Tunnel(101)
	if !ok || wire.Peer.Remote != hostAddr || wire.Peer.Local != ownAddr {
		t.Errorf("tunnel %+v, %v", wire, ok)
	}
	w.eventually("a registration", func() bool { return w.host.registrations() > 0 })
	if got := w.host.lastRequest().PreviousID; got != 1 {
		t.Errorf("the Host is told the id %d", got)
	}
	w.host.change(func() { w.host.refuse = nil })
	w.eventually("heartbeats", func() bool { return w.host.heartbeats() > 1 })
	if adds, _ := w.machine.Plane().Calls(); adds != 1 {
		t.Errorf("the tunnel was made %d times", adds)
	}
}

// Without an address on the bridge the Host says which runner this is; until then
// the kernel's device works on.
func TestTakeOverWaitsForTheHost(t *testing.T) {
	w, k := newMigrating(t)
	k.bridge = takeover.Bridge{}
	w.host.change(func() { w.host.refuse = refusal(http.StatusConflict, "not now") })
	w.start()
	w.eventually("tries", func() bool { return w.host.registrations() > 2 })
	if d := w.device("vxlan0"); d.Type != "vxlan" {
		t.Errorf("vxlan0 became %+v before the Host's answer", d)
	}
	w.host.change(func() { w.host.refuse = nil })
	w.awaitReady()
	if d := w.device("vxlan0"); d.Type != "tap" || w.tunnelTo(101) != hostAddr {
		t.Errorf("vxlan0 is %+v, the tunnel leads to %s", d, w.tunnelTo(101))
	}
}

func TestTakeOverEnds(t *testing.T) {
	for name, c := range map[string]struct {
		arrange func(w *world, k *kernelVXLAN)
		check   func(err error) bool
	}{
		"not in the bridge": {func(_ *world, k *kernelVXLAN) { k.device.Master = "" }, func(err error) bool {
			_, ok := errors.AsType[*takeover.BlockedError](err)
			return ok && strings.Contains(err.Error(), "no port of kohaku-overlay")
		}},
		"another overlay's VNI": {func(w *world, k *kernelVXLAN) { k.device.VNI, k.bridge = 9000, takeover.Bridge{} }, func(err error) bool {
			_, ok := errors.AsType[*takeover.BlockedError](err)
			return ok && strings.Contains(err.Error(), "101 to 355")
		}},
		"the port is taken": {func(w *world, _ *kernelVXLAN) { w.machine.FailPlane(syscall.EADDRINUSE) }, isUndone},
		"no device":         {func(w *world, _ *kernelVXLAN) { w.machine.FailOpen("vxlan0", syscall.EMFILE) }, isUndone},
		"no bridge port":    {func(w *world, _ *kernelVXLAN) { w.kernel.Fail("EnsureMaster vxlan0", syscall.EBUSY) }, isUndone},
		"not to be set up":  {func(w *world, _ *kernelVXLAN) { w.kernel.Fail("EnsureUp vxlan0", syscall.EINVAL) }, isUndone},
	} {
		w, k := newMigrating(t)
		c.arrange(w, k)
		w.start()
		if err := w.fails(); !c.check(err) {
			t.Errorf("%s: %v", name, err)
		}
		if d := w.device("vxlan0"); d.Type != "vxlan" || d.Alias != "" {
			t.Errorf("%s: vxlan0 is %+v", name, d)
		}
	}
}

func isUndone(err error) bool {
	undone, ok := errors.AsType[*takeover.UndoneError](err)
	return ok && undone.Err == nil
}
