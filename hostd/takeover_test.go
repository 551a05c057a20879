// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kohaku/conf"
	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
	"kohaku/internal/takeover"
)

// kernelVXLAN is a takeover.System whose devices stand in a fake kernel.
type kernelVXLAN struct {
	kernel  *linktest.Fake
	devices map[string]takeover.Device
}

func (k *kernelVXLAN) put(d takeover.Device) {
	k.devices[d.Name] = d
	k.kernel.Put(link.Info{Name: d.Name, Type: "vxlan", MTU: d.MTU, MAC: d.MAC, Up: d.Up, Addrs: d.Addrs})
}

func (k *kernelVXLAN) Find() (found []takeover.Device, err error) {
	for name, d := range k.devices {
		if info, ok := k.kernel.Get(name); ok && info.Type == "vxlan" {
			found = append(found, d)
		}
	}
	slices.SortFunc(found, func(a, b takeover.Device) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}

func (k *kernelVXLAN) Bridge(string) (takeover.Bridge, error) { return takeover.Bridge{}, nil }

func (k *kernelVXLAN) Remove(devices []takeover.Device) (func() error, error) {
	for _, d := range devices {
		if err := k.kernel.Delete(d.Name); err != nil {
			return nil, err
		}
	}
	return func() error {
		for _, d := range devices {
			k.put(d)
		}
		return nil
	}, nil
}

// migrating is a world in which the kernel has vxkr1 and vxkr2.
type migrating struct {
	*world
	vxlan *kernelVXLAN
}

func kernelDevice(id int, remote netip.Addr) takeover.Device {
	plan := conf.DefaultHost().Overlay.Subnet
	return takeover.Device{
		Name: conf.HostDevice(id), VNI: uint32(100 + id), Remote: remote, Local: hostAddr, Port: 4789, Up: true, MTU: 1450,
		MAC: net.HardwareAddr{2, 9, 9, 9, 9, byte(id)}, Addrs: []netip.Prefix{netip.PrefixFrom(plan.HostOn(id), 16)},
	}
}

func newMigrating(t *testing.T) *migrating {
	m := &migrating{world: newWorld(t)}
	m.cfg.Host.StateDir = t.TempDir()
	m.vxlan = &kernelVXLAN{m.kernel, make(map[string]takeover.Device)}
	m.vxlan.put(kernelDevice(1, runnerAddr))
	m.vxlan.put(kernelDevice(2, otherAddr))
	return m
}

func (m *migrating) begin() error {
	o := m.options()
	o.Takeover = m.vxlan
	m.host = newHost(m.cfg, o)
	return m.host.prepare()
}

func (m *migrating) mustBegin() {
	m.t.Helper()
	if err := m.begin(); err != nil {
		m.t.Fatal(err)
	}
}

func TestTakeOver(t *testing.T) {
	m := newMigrating(t)
	extra := kernelDevice(3, netip.MustParseAddr("192.168.88.63"))
	extra.Addrs = append(extra.Addrs, netip.MustParsePrefix("192.0.2.7/24"))
	broken := kernelDevice(4, netip.MustParseAddr("127.0.0.1"))
	m.vxlan.put(extra)
	m.vxlan.put(broken)
	m.mustBegin()
	if got := m.plane().Remotes(); len(got) != 3 || got[101] != runnerAddr || got[102] != otherAddr || got[103] != extra.Remote {
		t.Errorf("tunnels %v", got)
	}
	d := m.device("vxkr1")
	if want := kernelDevice(1, runnerAddr); d.Type != "tap" || d.MAC.String() != want.MAC.String() || d.MTU != 1450 || !d.Up || !slices.Equal(d.Addrs, want.Addrs) {
		t.Errorf("vxkr1 is %+v", d)
	}
	if d.Alias != "kohaku v1 vni=101 remote=192.168.88.61 subnet=10.0.0.0/8/8/16 id=1 port=4789" {
		t.Errorf("alias %q", d.Alias)
	}
	if d := m.device("vxkr3"); !slices.Contains(d.Addrs, netip.MustParsePrefix("192.0.2.7/24")) {
		t.Errorf("vxkr3 has lost an address that is not the overlay's: %v", d.Addrs)
	}
	if _, ok := m.kernel.Get("vxkr4"); ok {
		t.Error("a tunnel to 127.0.0.1 stayed")
	}
	if _, ok := m.kernel.Get("kohaku-try"); ok {
		t.Error("a trial device stayed")
	}
	s := m.host.status()
	if len(s.Allocations) != 3 || s.Allocations[0].RunnerID != 1 || s.Allocations[0].IsActive || s.Allocations[0].PhysicalIP != runnerAddr {
		t.Errorf("allocations %+v", s.Allocations)
	}
	if p := strings.Join(s.Problems, "\n"); !strings.Contains(p, "vxkr2 was taken over from the kernel, and the runner at 192.168.88.62 has not registered") {
		t.Errorf("problems %q", p)
	}

	// They are nobody's, but may be alive: cleanup lets them be, also later, and so
	// does a Host that starts again.
	m.clock.advance(time.Hour)
	if c, err := m.host.cleanup(); err != nil || len(c.Released) != 0 || len(c.Kept) != 3 {
		t.Errorf("cleanup: %+v, %v", c, err)
	}
	m.kill()
	m.mustBegin()
	if got := m.plane().Remotes(); len(got) != 3 {
		t.Errorf("tunnels after a restart: %v", got)
	}

	// Who registers from the other end gets the id, name and all.
	a := m.join(request("node1", runnerID, runnerAddr))
	if a.RunnerID != 1 || a.VNI != 101 {
		t.Errorf("answer %+v", a)
	}
	if d := m.device("vxkr1"); !strings.Contains(d.Alias, "runner=node1 machine="+runnerID) || d.MAC.String() != kernelDevice(1, runnerAddr).MAC.String() {
		t.Errorf("vxkr1 is %+v", d)
	}
	if p := strings.Join(m.host.status().Problems, "\n"); strings.Contains(p, "vxkr1") || !strings.Contains(p, "vxkr2") {
		t.Errorf("problems %q", p)
	}
	if adds, _ := m.plane().Calls(); adds != 3 {
		t.Errorf("tunnels were added %d times: the one that was claimed was made anew", adds)
	}
	m.refused(request("node1", otherID, otherAddr), 409)

	// Or it is released by the name that stands for it.
	if r, err := m.host.release("unclaimed-3.invalid"); err != nil || r.RunnerID != 3 {
		t.Errorf("release: %+v, %v", r, err)
	}
	if p := strings.Join(m.host.status().Problems, "\n"); strings.Contains(p, "vxkr3") {
		t.Errorf("problems %q", p)
	}
}

// An unclaimed id is given to nobody but the runner at its remote.
func TestClaims(t *testing.T) {
	third := netip.MustParseAddr("192.168.88.63")
	for name, c := range map[string]struct {
		previous int
		address  netip.Addr
		from     netip.Addr
		want     int
	}{
		"its address":                              {0, runnerAddr, runnerAddr, 1},
		"its address and id":                       {2, otherAddr, otherAddr, 2},
		"its address and id, by way of another":    {1, runnerAddr, third, 1},
		"another address":                          {0, third, third, 5},
		"another address, the id":                  {1, third, third, 5},
		"its address, but called from another":     {0, runnerAddr, third, 5},
		"its address, another id":                  {2, runnerAddr, runnerAddr, 5},
		"two have the address":                     {0, netip.MustParseAddr("192.168.88.70"), netip.MustParseAddr("192.168.88.70"), 5},
		"two have the address, and the id is told": {4, netip.MustParseAddr("192.168.88.70"), netip.MustParseAddr("192.168.88.70"), 4},
	} {
		m := newMigrating(t)
		m.vxlan.put(kernelDevice(3, netip.MustParseAddr("192.168.88.70")))
		m.vxlan.put(kernelDevice(4, netip.MustParseAddr("192.168.88.70")))
		m.mustBegin()
		q := request("node1", runnerID, c.address)
		q.PreviousID = c.previous
		a, err := m.host.register(q, c.from)
		if err != nil || a.RunnerID != c.want {
			t.Errorf("%s: id %d, %v; want %d", name, a.RunnerID, err, c.want)
		}
		if n := len(m.host.status().Allocations); n != map[bool]int{true: 5, false: 4}[c.want == 5] {
			t.Errorf("%s: %d allocations", name, n)
		}
		// A runner that has an id takes no second one.
		q.Address, q.PreviousID = otherAddr, 0
		if a, err := m.host.register(q, otherAddr); err != nil || a.RunnerID != c.want {
			t.Errorf("%s: then id %d, %v", name, a.RunnerID, err)
		}
	}
}

// A full table makes no room by taking what may be a live kernel's tunnel.
func TestUnclaimedAreNotRecycled(t *testing.T) {
	m := newMigrating(t)
	m.cfg.Overlay.Subnet = conf.MustParsePlan("10.0.0.0/8/2/22")
	for id := 1; id <= 2; id++ {
		d := m.vxlan.devices[conf.HostDevice(id)]
		d.Addrs = nil
		m.vxlan.put(d)
	}
	m.mustBegin()
	m.join(request("node3", otherID, netip.MustParseAddr("192.168.88.63")))
	q := request("node4", otherID, netip.MustParseAddr("192.168.88.64"))
	m.refused(q, 503, "No available runner IDs", "overlay-release")
	m.clock.advance(time.Hour)
	if a := m.join(q); a.RunnerID != 3 {
		t.Errorf("id %d, want that of the runner that was heard of", a.RunnerID)
	}
}

// What cannot be finished is undone: the kernel's devices are back, and the error
// says so.
func TestTakeOverIsUndone(t *testing.T) {
	for name, damage := range map[string]func(m *migrating){
		"no UDP port":    func(m *migrating) { m.machine.FailPlane(syscall.EADDRINUSE) },
		"no device":      func(m *migrating) { m.machine.FailOpen("vxkr2", syscall.EMFILE) },
		"no address":     func(m *migrating) { m.kernel.Fail("EnsureAddrs vxkr2", syscall.EINVAL) },
		"no Host device": func(m *migrating) { m.kernel.Fail("EnsureBridge kohaku-host", syscall.EBUSY) },
	} {
		m := newMigrating(t)
		damage(m)
		err := m.begin()
		if undone, ok := errors.AsType[*takeover.UndoneError](err); !ok || undone.Err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for id, remote := range []netip.Addr{runnerAddr, otherAddr} {
			want := kernelDevice(id+1, remote)
			if d := m.device(want.Name); d.Type != "vxlan" || d.Alias != "" || !slices.Equal(d.Addrs, want.Addrs) {
				t.Errorf("%s: %s is %+v", name, want.Name, d)
			}
		}
		if p := m.plane(); p != nil && !p.Closed() {
			t.Errorf("%s: the data plane is open", name)
		}
	}
}

func TestTakeOverRefused(t *testing.T) {
	m := newMigrating(t)
	m.vxlan.put(takeover.Device{Name: "flannel.1", VNI: 1, Port: 4789, Up: true})
	before := m.kernel.Changes()
	err := m.begin()
	if _, ok := errors.AsType[*takeover.BlockedError](err); !ok || !strings.Contains(err.Error(), "flannel.1") || !strings.Contains(err.Error(), "kernel VXLAN device") {
		t.Errorf("%v", err)
	}
	if m.kernel.Changes() != before {
		t.Error("something was changed")
	}
	// Nor is anything when no device of ours can be made.
	m = newMigrating(t)
	m.machine.FailOpen("kohaku-try", syscall.ENOENT)
	before = m.kernel.Changes()
	if err := m.begin(); !errors.Is(err, syscall.ENOENT) || m.kernel.Changes() != before {
		t.Errorf("%v; %d changes", err, m.kernel.Changes()-before)
	}
}
