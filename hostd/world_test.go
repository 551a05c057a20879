// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kohaku/conf"
	"kohaku/encap"
	"kohaku/internal/api"
	"kohaku/internal/dataplane"
	"kohaku/internal/dataplane/dataplanetest"
	"kohaku/internal/firewall"
	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
	"kohaku/internal/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	hostID   = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	runnerID = "0123456789abcdef0123456789abcdef"
	otherID  = "fedcba9876543210fedcba9876543210"
)

var (
	hostAddr   = netip.MustParseAddr("192.168.88.53")
	runnerAddr = netip.MustParseAddr("192.168.88.61")
	otherAddr  = netip.MustParseAddr("192.168.88.62")
)

// clock is a time that only the test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

type fakeFirewall struct {
	mu    sync.Mutex
	err   error
	rules []firewall.Rules
}

func (f *fakeFirewall) Ensure(r firewall.Rules) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, r)
	return nil, f.err
}

func (f *fakeFirewall) Watch(ctx context.Context) { <-ctx.Done() }

func (f *fakeFirewall) Report() api.Firewall { return api.Firewall{Backends: []string{"fake"}} }

// logBuffer is a log that is read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// world is a Host's machine.
type world struct {
	t          *testing.T
	cfg        *conf.Host
	kernel     *linktest.Fake
	machine    *dataplanetest.Machine
	firewall   *fakeFirewall
	clock      *clock
	log        *logBuffer
	host       *Host
	meter      dataplane.Meter // nil: the Host cannot measure
	trustClock trust.Clock
}

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, cfg: conf.DefaultHost(), kernel: linktest.NewFake(hostAddr, 1500),
		firewall: &fakeFirewall{}, clock: &clock{now: time.Now()}, log: &logBuffer{},
	}
	w.cfg.Host.Join, w.cfg.Host.StateDir = conf.JoinOpen, t.TempDir()
	w.machine = dataplanetest.NewMachine(w.kernel)
	w.kernel.Put(link.Info{Name: "eth0", Type: "veth", MTU: 1500, Up: true, Addrs: []netip.Prefix{netip.PrefixFrom(hostAddr, 24)}})
	return w
}

func (w *world) options() Options {
	return Options{
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Links: w.kernel, Firewall: w.firewall, Machine: w.machine,
		Now: w.clock.Now, MachineID: hostID, Ready: func(netip.AddrPort) {}, Meter: w.meter,
	}
}

// start begins a new life of the daemon, without its loops and its API.
func (w *world) start() error {
	w.host = newHost(w.cfg, w.options())
	return w.host.prepare()
}

func (w *world) mustStart() {
	w.t.Helper()
	if err := w.start(); err != nil {
		w.t.Fatal(err)
	}
}

// kill ends the daemon as kill -9 would: descriptors close, devices stay.
func (w *world) kill() { w.host.plane.Close() }

func (w *world) plane() *dataplanetest.Plane { return w.machine.Plane() }

func request(name, machine string, addr netip.Addr) api.RegisterRequest {
	return api.RegisterRequest{Hostname: name, MachineID: machine, Address: addr}
}

func (w *world) join(q api.RegisterRequest) api.RegisterAnswer {
	w.t.Helper()
	a, err := w.host.register(q, q.Address)
	if err != nil {
		w.t.Fatalf("register %s: %v", q.Hostname, err)
	}
	return a
}

// refused asserts that a registration is answered with code and a text and hint
// that hold every part.
func (w *world) refused(q api.RegisterRequest, code int, parts ...string) {
	w.t.Helper()
	_, err := w.host.register(q, q.Address)
	no, ok := errors.AsType[*refusal](err)
	if !ok || no.code != code {
		w.t.Fatalf("register: %v, want a refusal with %d", err, code)
	}
	for _, part := range parts {
		if !strings.Contains(no.text+" "+no.hint, part) {
			w.t.Errorf("the refusal %q (%q) does not say %q", no.text, no.hint, part)
		}
	}
}

func (w *world) device(name string) link.Info {
	w.t.Helper()
	d, ok := w.kernel.Get(name)
	if !ok {
		w.t.Fatalf("there is no device %s", name)
	}
	return d
}

func (w *world) remote(vni encap.VNI) netip.Addr {
	w.t.Helper()
	tunnel, ok := w.plane().Tunnel(vni)
	if !ok {
		w.t.Fatalf("there is no tunnel with VNI %s", vni)
	}
	return tunnel.Peer.Remote
}

func (w *world) allocation(name string) api.Allocation {
	w.t.Helper()
	for _, a := range w.host.status().Allocations {
		if a.RunnerName == name {
			return a
		}
	}
	w.t.Fatalf("the status has no runner %q", name)
	return api.Allocation{}
}

func (w *world) beat(a api.RegisterAnswer, machine string, addr netip.Addr) error {
	_, err := w.host.heartbeat(a.RunnerName, api.Heartbeat{MachineID: machine, RunnerID: a.RunnerID, Address: addr})
	return err
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to pass")
		}
	}
}

var _ dataplane.Machine = (*dataplanetest.Machine)(nil)
