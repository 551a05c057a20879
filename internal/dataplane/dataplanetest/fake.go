// SPDX-License-Identifier: Apache-2.0

// Package dataplanetest has a data plane that only keeps books, for tests of the
// daemons.
package dataplanetest

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/api"
	"kohaku/internal/dataplane"
	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
	"kohaku/tun"
	"kohaku/tun/tuntest"
)

// Machine is a dataplane.Machine whose devices appear in a fake kernel.
type Machine struct {
	kernel *linktest.Fake // constant

	mu       sync.Mutex
	planes   []*Plane
	openErr  map[string]error
	planeErr error
	opened   int
}

// NewMachine makes a machine whose devices are those of kernel.
func NewMachine(kernel *linktest.Fake) *Machine {
	return &Machine{kernel: kernel, openErr: make(map[string]error)}
}

// FailOpen makes OpenDevice of a device answer err, or work again with nil.
func (m *Machine) FailOpen(device string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.openErr[device] = err
}

// FailPlane makes NewPlane answer err.
func (m *Machine) FailPlane(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.planeErr = err
}

// Plane gives the data plane that was started last, nil before the first.
func (m *Machine) Plane() *Plane {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.planes) == 0 {
		return nil
	}
	return m.planes[len(m.planes)-1]
}

// Opened counts the devices opened so far.
func (m *Machine) Opened() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.opened
}

// OpenDevice is dataplane.Machine's.
func (m *Machine) OpenDevice(t dataplane.Device) (tun.Device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.openErr[t.Name]; err != nil {
		return nil, err
	}
	kind := t.Kind
	if kind == "" {
		kind = conf.DeviceTAP
	}
	d, ok := m.kernel.Get(t.Name)
	if !ok {
		d = link.Info{Name: t.Name, Type: kind}
	}
	if d.Type != kind {
		return nil, fmt.Errorf("open %s device %s: %w", kind, t.Name, tun.ErrNotTAP)
	}
	d.MTU, d.MAC = t.MTU, t.MAC
	m.kernel.Put(d)
	m.opened++
	c := tuntest.Config{Name: t.Name}
	copy(c.MAC[:], t.MAC)
	return tuntest.New(c), nil
}

// NewPlane is dataplane.Machine's.
func (m *Machine) NewPlane(port uint16) (dataplane.Plane, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.planeErr != nil {
		return nil, m.planeErr
	}
	p := &Plane{Port: port, tunnels: make(map[encap.VNI]dataplane.Tunnel), failures: make(chan dataplane.Failure, 16)}
	m.planes = append(m.planes, p)
	return p, nil
}

// Plane is a dataplane.Plane that keeps books.
type Plane struct {
	Port uint16

	failures chan dataplane.Failure

	mu      sync.Mutex
	tunnels map[encap.VNI]dataplane.Tunnel
	closed  bool
	adds    int
	updates int
	refuse  error
}

// Tunnel gives a tunnel and whether it exists.
func (p *Plane) Tunnel(vni encap.VNI) (dataplane.Tunnel, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.tunnels[vni]
	return t, ok
}

// Calls counts the successful calls of Add and Update.
func (p *Plane) Calls() (adds, updates int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.adds, p.updates
}

// Closed reports whether Close was called.
func (p *Plane) Closed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// Refuse makes Add answer err, or work again with nil.
func (p *Plane) Refuse(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = err
}

// Fail reports the device of a tunnel as dead.
func (p *Plane) Fail(vni encap.VNI) {
	t, _ := p.Tunnel(vni)
	p.failures <- dataplane.Failure{VNI: vni, Device: t.Device.Name(), Err: tun.ErrGone}
}

// Add is dataplane.Plane's.
func (p *Plane) Add(t dataplane.Tunnel) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse != nil {
		return p.refuse
	}
	if _, ok := p.tunnels[t.VNI]; ok {
		return fmt.Errorf("VNI %s already has a tunnel", t.VNI)
	}
	p.tunnels[t.VNI] = t
	p.adds++
	return nil
}

// Update is dataplane.Plane's.
func (p *Plane) Update(vni encap.VNI, peer dataplane.Peer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, ok := p.tunnels[vni]
	if !ok {
		return fmt.Errorf("VNI %s has no tunnel", vni)
	}
	t.Peer = peer
	p.tunnels[vni] = t
	p.updates++
	return nil
}

// Remove is dataplane.Plane's.
func (p *Plane) Remove(vni encap.VNI) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t, ok := p.tunnels[vni]; ok {
		t.Device.Close()
		delete(p.tunnels, vni)
	}
	return nil
}

// Tunnels is dataplane.Plane's; every tunnel has moved one frame of 64 bytes each
// way and dropped one.
func (p *Plane) Tunnels() []dataplane.Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []dataplane.Stats
	for vni, t := range p.tunnels {
		all = append(all, dataplane.Stats{
			VNI: vni, Device: t.Device.Name(),
			Counters: api.Counters{RxFrames: 1, RxBytes: 64, TxFrames: 1, TxBytes: 64, Drops: map[string]uint64{"test": 1}},
		})
	}
	slices.SortFunc(all, func(a, b dataplane.Stats) int { return int(a.VNI) - int(b.VNI) })
	return all
}

// Drops is dataplane.Plane's.
func (p *Plane) Drops() map[string]uint64 { return map[string]uint64{"unknown_vni": 1} }

// Stats is dataplane.Plane's; there is one worker that has sent one datagram.
func (p *Plane) Stats() engine.Stats {
	return engine.Stats{Port: p.Port, Workers: 1, Stages: engine.Stages{Sends: 1, Sent: 1}}
}

// Failures is dataplane.Plane's.
func (p *Plane) Failures() <-chan dataplane.Failure { return p.failures }

// Close is dataplane.Plane's.
func (p *Plane) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for vni, t := range p.tunnels {
		t.Device.Close()
		delete(p.tunnels, vni)
	}
	return nil
}

// Remotes lists the peers' addresses by VNI.
func (p *Plane) Remotes() map[encap.VNI]netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[encap.VNI]netip.Addr)
	for vni, t := range p.tunnels {
		out[vni] = t.Peer.Remote
	}
	return out
}
