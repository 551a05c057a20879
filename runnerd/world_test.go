// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
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
	"kohaku/internal/docker"
	"kohaku/internal/firewall"
	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
	"kohaku/internal/takeover"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const machineID = "0123456789abcdef0123456789abcdef"

var (
	hostAddr = netip.MustParseAddr("192.168.88.53")
	ownAddr  = netip.MustParseAddr("192.168.88.61")
)

// fakeHost is the Host's API as a script that tests change while it runs.
type fakeHost struct {
	mu        sync.Mutex
	answer    api.RegisterAnswer
	beat      api.HeartbeatAnswer
	refuse    error // answer of register
	beatError error // answer of one heartbeat
	requests  []api.RegisterRequest
	beats     []api.Heartbeat
	closes    int
	hang      chan struct{} // not nil: registrations say so there, and hang

	tasks   chan []api.PerfTask // nil: none ever comes
	reports chan api.PerfReport
}

func answerFor(plan conf.Plan, id int) api.RegisterAnswer {
	return api.RegisterAnswer{
		RunnerName: "node1", RunnerID: id, SubnetConfig: plan.String(), Subnet: plan.Subnet(id), Gateway: plan.Gateway(id),
		HostOnSubnet: plan.HostOn(id), HostIP: plan.HostAddr(), HostPhysicalIP: hostAddr,
		VNI: uint32(100 + id), VXLANPort: 4789, MTU: 1450, HeartbeatInterval: 0.005, TimeoutFactor: 6,
	}
}

func (f *fakeHost) set(a api.RegisterAnswer) {
	f.change(func() {
		f.answer = a
		f.beat = api.HeartbeatAnswer{RunnerID: a.RunnerID, HostPhysicalIP: a.HostPhysicalIP, MTU: a.MTU, HeartbeatInterval: a.HeartbeatInterval}
	})
}

func (f *fakeHost) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
}

func (f *fakeHost) Register(ctx context.Context, q api.RegisterRequest) (api.RegisterAnswer, error) {
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang != nil {
		hang <- struct{}{}
		<-ctx.Done()
		return api.RegisterAnswer{}, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, q)
	return f.answer, f.refuse
}

func (f *fakeHost) Heartbeat(_ context.Context, name string, h api.Heartbeat) (api.HeartbeatAnswer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name != "node1" {
		return api.HeartbeatAnswer{}, fmt.Errorf("heartbeat for %q", name)
	}
	f.beats = append(f.beats, h)
	err := f.beatError
	return f.beat, err
}

func (f *fakeHost) PerfTasks(ctx context.Context, name string, p api.PerfPoll) ([]api.PerfTask, error) {
	if name != "node1" || p.MachineID != machineID || p.RunnerID == 0 {
		return nil, fmt.Errorf("tasks asked for by %q, %+v", name, p)
	}
	select {
	case t := <-f.tasks:
		return t, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (f *fakeHost) PerfReport(_ context.Context, name string, r api.PerfReport) error {
	if name != "node1" {
		return fmt.Errorf("report of %q", name)
	}
	f.reports <- r
	return nil
}

func (f *fakeHost) Close() { f.change(func() { f.closes++ }) }

// registrations counts the calls of Register.
func (f *fakeHost) registrations() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

func (f *fakeHost) lastRequest() api.RegisterRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[len(f.requests)-1]
}

func (f *fakeHost) heartbeats() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.beats)
}

func (f *fakeHost) lastBeat() api.Heartbeat {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.beats) == 0 {
		return api.Heartbeat{}
	}
	return f.beats[len(f.beats)-1]
}

type fakeFirewall struct {
	mu    sync.Mutex
	err   error
	rules firewall.Rules
}

func (f *fakeFirewall) Ensure(r firewall.Rules) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = r
	return nil, f.err
}

func (f *fakeFirewall) current() firewall.Rules {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rules
}

func (f *fakeFirewall) Watch(ctx context.Context) { <-ctx.Done() }

func (f *fakeFirewall) Report() api.Firewall { return api.Firewall{Backends: []string{"fake"}} }

// logBuffer may be written while a test reads it.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// world is a Runner's machine.
type world struct {
	t        *testing.T
	cfg      *conf.Runner
	kernel   *linktest.Fake
	machine  *dataplanetest.Machine
	firewall *fakeFirewall
	host     *fakeHost
	log      *logBuffer
	ready    chan struct{}
	ended    chan error
	stop     context.CancelFunc
	meter    dataplane.Meter // nil: the Runner cannot measure
	takeover takeover.System // nil: the kernel has no VXLAN devices
	docker   *fakeDocker
	facts    chan net.Listener // those that were opened for facts
}

// fakeDocker notes what is wanted and says what it was told to.
type fakeDocker struct {
	mu   sync.Mutex
	want []docker.Network // each change
	used []netip.Addr
}

func (f *fakeDocker) Run(ctx context.Context) { <-ctx.Done() }

func (f *fakeDocker) Want(n docker.Network) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.want) == 0 || f.want[len(f.want)-1] != n {
		f.want = append(f.want, n)
	}
}

func (f *fakeDocker) Used() []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

// last is what is wanted now.
func (f *fakeDocker) last() docker.Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.want) == 0 {
		return docker.Network{}
	}
	return f.want[len(f.want)-1]
}

var plan = conf.MustParsePlan("10.0.0.0/8/8/16")

func newWorld(t *testing.T) *world {
	w := &world{
		t: t, cfg: conf.DefaultRunner(), kernel: linktest.NewFake(ownAddr, 1500),
		firewall: &fakeFirewall{}, host: &fakeHost{}, log: &logBuffer{}, docker: &fakeDocker{}, facts: make(chan net.Listener, 16),
	}
	w.cfg.Runner.Name, w.cfg.Runner.Host = "Node1", hostAddr.String()+":8000"
	w.machine = dataplanetest.NewMachine(w.kernel)
	w.host.set(answerFor(plan, 1))
	return w
}

// start begins a life of the daemon; the test ends it and checks that it ends well.
func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.ready, w.ended, w.stop = make(chan struct{}), make(chan error, 1), cancel
	ready, ended := w.ready, w.ended
	go func() {
		ended <- Run(ctx, w.cfg, Options{
			Log: slog.New(slog.NewTextHandler(w.log, nil)), Ready: func() { close(ready) }, Version: "v0",
			Links: w.kernel, Firewall: w.firewall, Machine: w.machine, Host: w.host, MachineID: machineID, Retry: time.Millisecond, Meter: w.meter, Takeover: w.takeover,
			Docker: w.dockerOption(), ListenFacts: w.listenFacts,
		})
	}()
	w.t.Cleanup(w.end)
}

func (w *world) dockerOption() Docker {
	if w.docker == nil {
		return nil
	}
	return w.docker
}

// runner makes a Runner whose loops do not run.
func (w *world) runner() *Runner {
	w.t.Helper()
	opts, err := Options{
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Links: w.kernel, Firewall: w.firewall, Machine: w.machine, Host: w.host,
		MachineID: machineID, Docker: w.docker, ListenFacts: w.listenFacts,
	}.withDefaults(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	r := newRunner(w.cfg, "node1", opts)
	w.t.Cleanup(r.closeWire)
	return r
}

// listenFacts listens on loopback instead of the gateway's address.
func (w *world) listenFacts(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err == nil {
		w.log.Write([]byte("facts are asked for at " + at.String() + "\n"))
		w.facts <- l
	}
	return l, err
}

// end ends the daemon, if it still runs.
func (w *world) end() {
	w.t.Helper()
	if w.ended == nil {
		return
	}
	w.stop()
	if err := <-w.ended; err != nil {
		w.t.Errorf("Run: %v", err)
	}
	w.ended = nil
	if p := w.machine.Plane(); p != nil && !p.Closed() {
		w.t.Error("the data plane is still open")
	}
}

// fails waits for the daemon to end by itself.
func (w *world) fails() error {
	w.t.Helper()
	select {
	case err := <-w.ended:
		w.ended = nil
		if err == nil {
			w.t.Fatal("Run ended without an error")
		}
		return err
	case <-time.After(20 * time.Second):
		w.t.Fatal("Run goes on")
		return nil
	}
}

func (w *world) startReady() {
	w.t.Helper()
	w.start()
	w.awaitReady()
}

func (w *world) awaitReady() {
	w.t.Helper()
	select {
	case <-w.ready:
	case err := <-w.ended:
		w.ended <- err
		w.t.Fatalf("Run: %v", err)
	case <-time.After(20 * time.Second):
		w.t.Fatalf("not ready; the log says:\n%s", w.log)
	}
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s did not come to pass; the log says:\n%s", what, w.log)
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

func (w *world) tunnelTo(vni encap.VNI) netip.Addr {
	if w.machine.Plane() == nil {
		return netip.Addr{}
	}
	t, _ := w.machine.Plane().Tunnel(vni)
	return t.Peer.Remote
}

func refusal(code int, text string) error {
	return &api.CallError{Op: "test", URL: "http://test", StatusCode: code, Message: text}
}

func prefixes(text ...string) (out []netip.Prefix) {
	for _, s := range text {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}
