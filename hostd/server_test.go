// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kohaku/internal/api"
)

// run starts the whole daemon on loopback and gives a client of it. The test ends
// the daemon and checks that it ends well.
func run(t *testing.T, w *world) (client *api.Client, base string) {
	t.Helper()
	w.cfg.Host.Bind = netip.MustParseAddrPort("127.0.0.1:0")
	ready := make(chan netip.AddrPort, 1)
	o := w.options()
	o.Ready = func(a netip.AddrPort) { ready <- a }
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, w.cfg, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		if !w.plane().Closed() {
			t.Error("the data plane is still open")
		}
	})
	var addr netip.AddrPort
	select {
	case addr = <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("Run: %v", err)
	}
	client, err := api.NewClient(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, "http://" + addr.String()
}

func TestAPI(t *testing.T) {
	w := newWorld(t)
	client, _ := run(t, w)
	ctx := t.Context()
	if err := client.Health(ctx); err != nil {
		t.Error(err)
	}
	a, err := client.Register(ctx, request("Node1", runnerID, runnerAddr))
	if err != nil || a.RunnerName != "node1" || a.RunnerID != 1 {
		t.Fatalf("register: %+v, %v", a, err)
	}
	beat := api.Heartbeat{MachineID: runnerID, RunnerID: 1, Address: runnerAddr, Counters: api.Counters{TxFrames: 9}}
	b, err := client.Heartbeat(ctx, "NODE1", beat)
	if err != nil || b.MTU != 1450 || b.HostPhysicalIP != hostAddr {
		t.Errorf("heartbeat: %+v, %v", b, err)
	}
	if _, err := client.Heartbeat(ctx, "node2", beat); !api.IsNotFound(err) {
		t.Errorf("heartbeat of an unknown runner: %v", err)
	}
	s, err := client.Status(ctx)
	if err != nil || len(s.Allocations) != 1 || s.Allocations[0].RunnerCounters.TxFrames != 9 || !s.Allocations[0].IsActive {
		t.Errorf("status: %+v, %v", s, err)
	}
	_, err = client.Register(ctx, request("node1", otherID, otherAddr))
	if err == nil || !strings.Contains(err.Error(), runnerID) || !strings.Contains(err.Error(), otherID) {
		t.Errorf("second machine: %v", err)
	}
	if r, err := client.Release(ctx, "node1"); err != nil || r.Released != "node1" {
		t.Errorf("release: %+v, %v", r, err)
	}
	if c, err := client.Cleanup(ctx); err != nil || c.Released == nil || c.Kept == nil {
		t.Errorf("cleanup: %+v, %v", c, err)
	}
}

func TestAPIRefusesBadCalls(t *testing.T) {
	w := newWorld(t)
	_, base := run(t, w)
	cases := []struct {
		method, path, body string
		code               int
		says               string
	}{
		{"POST", api.PathRegister, "", 400, "not a JSON object"},
		{"POST", api.PathRegister, "{", 400, "not valid JSON"},
		{"POST", api.PathRegister, "{}", 400, "hostname"},
		{"POST", api.PathRegister, strings.Repeat(" ", api.MaxBody+1), 413, "longer than"},
		{"PUT", api.PathHeartbeat + "a_b", "{}", 400, "hostname"},
		{"PUT", api.PathHeartbeat + "a", "{}", 400, "machine_id"},
		{"POST", api.PathRelease + "%1b%5b2J", "", 400, "hostname"},
		{"POST", api.PathRelease + "nobody", "", 404, "nobody"},
		{"GET", "/api/%1b", "", 404, "there is no call"},
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for _, c := range cases {
		req, err := http.NewRequestWithContext(t.Context(), c.method, base+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != c.code || !strings.Contains(string(text), c.says) || !strings.Contains(string(text), `"error":`) ||
			strings.Contains(string(text), "\x1b") || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d %q, want %d with %q", c.method, c.path, res.StatusCode, text, c.code, c.says)
		}
	}
}

func TestManyRunnersAtOnce(t *testing.T) {
	w := newWorld(t)
	client, _ := run(t, w)
	const n = 255
	ids := make([]int, n)
	var group sync.WaitGroup
	gate := make(chan struct{}, 32)
	for i := range n {
		group.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			addr := netip.AddrFrom4([4]byte{192, 168, 1, byte(i)})
			a, err := client.Register(t.Context(), request(fmt.Sprint("node", i), runnerID, addr))
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = a.RunnerID
		})
	}
	group.Wait()
	seen := make(map[int]bool)
	for _, id := range ids {
		if id < 1 || id > n || seen[id] {
			t.Errorf("id %d is out of range or was given twice", id)
		}
		seen[id] = true
	}
	if got := len(w.plane().Remotes()); got != n {
		t.Errorf("%d tunnels, want %d", got, n)
	}
}

func TestRunRefusesATakenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWorld(t)
	w.cfg.Host.Bind = l.Addr().(*net.TCPAddr).AddrPort()
	err = Run(t.Context(), w.cfg, w.options())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "bind") {
		t.Errorf("error %v", err)
	}
	if _, ok := w.kernel.Get("kohaku-host"); ok {
		t.Error("devices were touched")
	}
	w.cfg.Host.Bind = netip.MustParseAddrPort("192.0.2.77:8000")
	if err := Run(t.Context(), w.cfg, w.options()); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("error %v", err)
	}
}

func TestRunReportsATakenVXLANPort(t *testing.T) {
	w := newWorld(t)
	w.cfg.Host.Bind = netip.MustParseAddrPort("127.0.0.1:0")
	w.machine.FailPlane(errors.New("held by somebody"))
	err := Run(t.Context(), w.cfg, w.options())
	if err == nil || !strings.Contains(err.Error(), "UDP port 4789") || !strings.Contains(err.Error(), "held by somebody") {
		t.Errorf("error %v", err)
	}
}
