// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"go.uber.org/goleak"

	"kohaku/internal/problem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var wanted = Network{
	Name: "kohakuriver-overlay", Bridge: "kohaku-overlay", Subnet: netip.MustParsePrefix("10.1.0.0/16"),
	Gateway: netip.MustParseAddr("10.1.0.1"), Host: netip.MustParseAddr("10.1.0.254"), MTU: 1450,
}

type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// watched is a Keeper that runs until the test ends.
type watched struct {
	*Keeper
	t        *testing.T
	log      *lines
	problems *problem.Set

	mu       sync.Mutex
	bridges  int
	noBridge error
}

func keep(t *testing.T, e *engine, want Network) *watched {
	t.Helper()
	w := &watched{t: t, log: &lines{}}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	w.problems = problem.NewSet(log)
	var err error
	w.Keeper, err = New(Config{Socket: "unix://" + e.socket, Log: log, Problems: w.problems, Bridge: func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.bridges++
		return w.noBridge
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.Want(want)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { w.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return w
}

func (w *watched) eventually(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s did not come to pass; problems %q; the log:\n%s", what, w.problems.List(), w.log)
		}
	}
}

// right waits for the network as it must be, without a problem.
func (w *watched) right(e *engine, want Network) network.Inspect {
	w.t.Helper()
	var got network.Inspect
	w.eventually("the network", func() bool {
		n, ok := e.named(want.Name)
		got = n
		return ok && len(want.differences(n.Network, e.api)) == 0 && len(w.problems.List()) == 0
	})
	return got
}

func (w *watched) problem(texts ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("a problem with %q", texts), func() bool {
		all := strings.Join(w.problems.List(), "\n")
		return !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(all, s) })
	})
}

// What an engine is told depends on its version, and each accepts it.
func TestMadePerVersion(t *testing.T) {
	for api, mode := range map[string]string{
		"1.41": "", "1.43": "", "1.45": "", "1.46": "", "1.47": "", // 20.10 ... 27
		"1.48": "nat-unprotected", "1.51": "nat-unprotected", "1.52": "nat-unprotected", "1.99": "nat-unprotected", // 28, 29, what comes
	} {
		t.Run(api, func(t *testing.T) {
			e := newEngine(t, api)
			e.start()
			w := keep(t, e, wanted)
			n := w.right(e, wanted)
			want := map[string]string{optBridge: "kohaku-overlay", optMTU: "1450", optMasquerade: "false", optICC: "true"}
			if mode != "" {
				want[optGatewayMode] = mode
			}
			if fmt.Sprint(n.Options) != fmt.Sprint(want) {
				t.Errorf("options %v, want %v", n.Options, want)
			}
			c := n.IPAM.Config[0]
			if c.Subnet != wanted.Subnet || c.Gateway != wanted.Gateway || c.AuxAddress["host"] != wanted.Host || n.Labels[Label] == "" || n.Driver != "bridge" {
				t.Errorf("network %+v", n)
			}
			if w.bridges == 0 {
				t.Error("Docker was told of a bridge that nobody had made sure of")
			}
		})
	}
}

func TestEngineTooOld(t *testing.T) {
	e := newEngine(t, "1.40")
	e.start()
	w := keep(t, e, wanted)
	w.problem("1.40", "20.10")
	if e.creates != 0 {
		t.Error("a network was made")
	}
}

// Every property is compared, and a network that is wrong in one is made anew.
func TestRepair(t *testing.T) {
	cases := map[string]func(n *network.Network){
		"driver":        func(n *network.Network) { n.Driver = "macvlan" },
		"scope":         func(n *network.Network) { n.Scope = "swarm" },
		"internal":      func(n *network.Network) { n.Internal = true },
		"config-only":   func(n *network.Network) { n.ConfigOnly = true },
		"IPv6":          func(n *network.Network) { n.EnableIPv6 = true },
		"IPv4":          func(n *network.Network) { n.EnableIPv4 = false },
		"IPAM driver":   func(n *network.Network) { n.IPAM.Driver = "other" },
		"no subnet":     func(n *network.Network) { n.IPAM.Config = nil },
		"subnet":        func(n *network.Network) { n.IPAM.Config[0].Subnet = netip.MustParsePrefix("10.3.0.0/16") },
		"gateway":       func(n *network.Network) { n.IPAM.Config[0].Gateway = netip.MustParseAddr("10.1.0.9") },
		"range":         func(n *network.Network) { n.IPAM.Config[0].IPRange = netip.MustParsePrefix("10.1.2.0/24") },
		"Host":          func(n *network.Network) { n.IPAM.Config[0].AuxAddress = nil },
		"bridge":        func(n *network.Network) { n.Options[optBridge] = "br0" },
		"MTU":           func(n *network.Network) { n.Options[optMTU] = "1500" },
		"no MTU":        func(n *network.Network) { delete(n.Options, optMTU) },
		"masquerade":    func(n *network.Network) { delete(n.Options, optMasquerade) },
		"no traffic":    func(n *network.Network) { n.Options[optICC] = "0" },
		"gateway mode":  func(n *network.Network) { delete(n.Options, optGatewayMode) },
		"no own bridge": func(n *network.Network) { n.Options[optInhibitIPv4] = "true" },
	}
	e := newEngine(t, "1.51")
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			e := newEngine(t, "1.51")
			q := wanted.create(e.api)
			n := network.Network{Name: wanted.Name, Driver: q.Driver, IPAM: *q.IPAM, Options: q.Options, Labels: q.Labels}
			id := e.put(n)
			stored := e.networks[id]
			stored.IPAM.Config = slices.Clone(stored.IPAM.Config)
			spoil(&stored.Network)
			e.networks[id] = stored
			e.start()
			w := keep(t, e, wanted)
			w.eventually("a new network", func() bool { n, ok := e.named(wanted.Name); return ok && n.ID != id })
			w.right(e, wanted)
			if e.removes != 1 || e.creates != 1 {
				t.Errorf("%d removed, %d made", e.removes, e.creates)
			}
		})
	}
	// What says the same in other words is left.
	q := wanted.create(e.api)
	same := network.Network{Name: wanted.Name, Driver: q.Driver, Scope: "local", EnableIPv4: true, IPAM: *q.IPAM, Options: q.Options}
	same.Options[optMasquerade] = "0"
	delete(same.Options, optICC)
	if diff := wanted.differences(same, e.api); len(diff) != 0 {
		t.Errorf("differences %q", diff)
	}
}

// A wrong network with containers, running or stopped, is left until they are gone.
func TestWrongAndInUse(t *testing.T) {
	e := newEngine(t, "1.41")
	old := wanted
	old.Subnet, old.Gateway, old.Host = netip.MustParsePrefix("10.3.0.0/16"), netip.MustParseAddr("10.3.0.1"), netip.MustParseAddr("10.3.0.254")
	q := old.create(e.api)
	id := e.put(network.Network{Name: wanted.Name, Driver: q.Driver, IPAM: *q.IPAM, Options: q.Options, Labels: q.Labels})
	e.attach(id, "web", netip.MustParsePrefix("10.3.0.2/16"))
	e.stopped(wanted.Name, "db", netip.Addr{})
	e.start()
	w := keep(t, e, wanted)
	w.problem("10.3.0.0/16", "10.1.0.0/16", "db, web", "docker network disconnect")
	e.detach(id, "web")
	w.problem("attached: db (")
	if e.removes != 0 {
		t.Fatal("a network in use was removed")
	}
	e.change(func() { e.containers = nil; e.tell("destroy") })
	w.right(e, wanted)
}

func TestForeignNetwork(t *testing.T) {
	e := newEngine(t, "1.41")
	id := e.put(network.Network{Name: wanted.Name, Driver: "macvlan", Options: map[string]string{}})
	e.start()
	w := keep(t, e, wanted)
	w.problem("was not made for the overlay", "docker network rm kohakuriver-overlay", "network_name")
	if n, _ := e.named(wanted.Name); n.ID != id {
		t.Error("it was replaced")
	}
}

func TestInTheWay(t *testing.T) {
	e := newEngine(t, "1.41")
	e.put(network.Network{Name: "by-hand", Driver: "bridge", Options: map[string]string{optBridge: wanted.Bridge}})
	e.start()
	w := keep(t, e, wanted)
	w.problem("same bridge name", "docker network rm by-hand")
}

func TestRenamed(t *testing.T) {
	e := newEngine(t, "1.41")
	e.start()
	w := keep(t, e, wanted)
	w.right(e, wanted)
	other := wanted
	other.Name = "lab"
	w.Want(other)
	w.right(e, other)
	if _, ok := e.named(wanted.Name); ok {
		t.Error("the network of the old name is still there")
	}
	if n, _ := e.named("lab"); true {
		e.attach(n.ID, "web", netip.MustParsePrefix("10.1.0.2/16"))
	}
	w.Want(wanted)
	w.problem("was called lab", "web", `network_name = "lab"`)
}

// An engine whose own defaults spoil the network is told to, not fought.
func TestRepairThatDoesNotHelp(t *testing.T) {
	e := newEngine(t, "1.41")
	e.extra = map[string]string{optMTU: "9000"}
	e.start()
	w := keep(t, e, wanted)
	w.problem("9000", "default-network-opts")
	n, _ := e.named(wanted.Name)
	for range 3 {
		e.change(func() { e.tell("connect") })
		time.Sleep(2 * settle)
	}
	if now, _ := e.named(wanted.Name); now.ID != n.ID || e.creates > 2 {
		t.Errorf("it was made %d times", e.creates)
	}
}

func TestUsedAddresses(t *testing.T) {
	e := newEngine(t, "1.41")
	e.start()
	w := keep(t, e, wanted)
	n := w.right(e, wanted)
	used := func(want ...string) {
		t.Helper()
		w.eventually(fmt.Sprintf("addresses %v", want), func() bool { return fmt.Sprint(w.Used()) == fmt.Sprint(want) })
	}
	used()
	e.attach(n.ID, "web", netip.MustParsePrefix("10.1.0.3/16"))
	e.attach(n.ID, "db", netip.MustParsePrefix("10.1.0.2/16"))
	used("10.1.0.2", "10.1.0.3")
	e.stopped(wanted.Name, "fixed", netip.MustParseAddr("10.1.7.7"))
	used("10.1.0.2", "10.1.0.3", "10.1.7.7")
	e.detach(n.ID, "web")
	used("10.1.0.2", "10.1.7.7")
	e.stop()
	w.problem("dockerd does not answer", "systemctl start docker")
	used("10.1.0.2", "10.1.7.7") // containers may run on
	e.start()
	w.right(e, wanted)
	e.detach(n.ID, "db")
	used("10.1.7.7")
}

// No Docker is no problem and is said once; one that appears later is used; one
// that goes away is a problem; what was damaged meanwhile is put right.
func TestComesAndGoes(t *testing.T) {
	e := newEngine(t, "1.41")
	w := keep(t, e, wanted)
	w.eventually("the word that there is none", func() bool { return strings.Contains(w.log.String(), "no Docker on this machine") })
	w.eventually("no addresses", func() bool { u := w.Used(); return u != nil && len(u) == 0 })
	time.Sleep(4 * firstRetry)
	if n := strings.Count(w.log.String(), "no Docker"); n != 1 || len(w.problems.List()) != 0 {
		t.Errorf("said %d times, problems %q", n, w.problems.List())
	}
	e.start()
	n := w.right(e, wanted)
	e.stop()
	w.problem("dockerd does not answer")
	e.change(func() { delete(e.networks, n.ID) })
	e.start()
	w.right(e, wanted)
	if c := strings.Count(w.log.String(), "level=WARN"); c != 1 {
		t.Errorf("%d warnings for one restart:\n%s", c, w.log)
	}
	// Removed while we look.
	n, _ = e.named(wanted.Name)
	e.change(func() { delete(e.networks, n.ID); e.tell("destroy") })
	w.eventually("a new one", func() bool { now, ok := e.named(wanted.Name); return ok && now.ID != n.ID })
}

// A socket on which nobody accepts is a dockerd that is not up yet.
func TestNotUpYet(t *testing.T) {
	e := newEngine(t, "1.41")
	l, err := net.Listen("unix", e.socket)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	w := keep(t, e, wanted)
	w.problem("dockerd does not answer", "enabled = false")
	if u := w.Used(); u != nil {
		t.Errorf("addresses %v, though nobody has said any", u)
	}
}

func TestNoBridgeNoNetwork(t *testing.T) {
	e := newEngine(t, "1.41")
	e.start()
	w := keep(t, e, Network{})
	w.mu.Lock()
	w.noBridge = errors.New("made up")
	w.mu.Unlock()
	w.Want(wanted)
	w.problem("its bridge kohaku-overlay is not there: made up")
	if e.creates != 0 {
		t.Error("Docker was asked for a network without our bridge")
	}
}

func TestBadSettings(t *testing.T) {
	if _, err := New(Config{Socket: "nonsense"}); err == nil || !strings.Contains(err.Error(), "[docker]") {
		t.Errorf("error %v", err)
	}
}

func TestAPIVersion(t *testing.T) {
	for _, s := range []string{"", "1", "1.", "a.b", "1.-1"} {
		if v, err := parseAPIVersion(s); err == nil {
			t.Errorf("%q is %v", s, v)
		}
	}
	nine, ten := apiVersion{1, 9}, apiVersion{1, 10}
	if !nine.less(ten) || ten.less(nine) || ten.less(ten) || (apiVersion{2, 0}).less(ten) {
		t.Error("order")
	}
}
