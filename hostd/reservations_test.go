// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/reserve"
)

// addressWorld is a Host with node1 and node2 joined and heard, and a state of its
// own.
type addressWorld struct {
	*world
	now     reserve.Instant
	answers map[string]api.RegisterAnswer
}

func newAddressWorld(t *testing.T) *addressWorld {
	w := &addressWorld{world: newWorld(t), now: reserve.Instant{Boot: "a", At: time.Hour}, answers: map[string]api.RegisterAnswer{}}
	w.cfg.Host.StateDir = t.TempDir()
	w.begin()
	w.answers["node1"] = w.join(request("node1", runnerID, runnerAddr))
	w.answers["node2"] = w.join(request("node2", runnerID, otherAddr))
	w.uses("node1")
	w.uses("node2")
	return w
}

// begin starts the Host, with this world's clock.
func (w *addressWorld) begin() {
	w.t.Helper()
	o := w.options()
	o.BootClock = func() reserve.Instant { return w.now }
	w.host = newHost(w.cfg, o)
	if err := w.host.prepare(); err != nil {
		w.t.Fatal(err)
	}
}

// uses sends a heartbeat that tells of these addresses.
func (w *addressWorld) uses(name string, addrs ...string) {
	w.t.Helper()
	b := api.Heartbeat{MachineID: runnerID, RunnerID: w.answers[name].RunnerID, Address: runnerAddr}
	if name == "node2" {
		b.Address = otherAddr
	}
	b.UsedAddresses = []netip.Addr{}
	for _, a := range addrs {
		b.UsedAddresses = append(b.UsedAddresses, netip.MustParseAddr(a))
	}
	if _, err := w.host.heartbeat(name, b); err != nil {
		w.t.Fatal(err)
	}
}

// call makes one of the calls about addresses over HTTP.
func (w *addressWorld) call(method, path, body string, answer any) (code int, text string) {
	w.t.Helper()
	mux := http.NewServeMux()
	w.host.handleAddressReads(mux)
	w.host.handleAddressWrites(mux)
	rec := httptest.NewRecorder()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	mux.ServeHTTP(rec, httptest.NewRequest(method, path, r))
	if rec.Code == http.StatusOK && answer != nil {
		if err := json.Unmarshal(rec.Body.Bytes(), answer); err != nil {
			w.t.Fatalf("%s %s: %v: %s", method, path, err, rec.Body)
		}
	}
	return rec.Code, rec.Body.String()
}

func (w *addressWorld) mustCall(method, path, body string, answer any) {
	w.t.Helper()
	if code, text := w.call(method, path, body, answer); code != http.StatusOK {
		w.t.Fatalf("%s %s: %d: %s", method, path, code, text)
	}
}

func (w *addressWorld) wants(code int, method, path, body string, words ...string) {
	w.t.Helper()
	got, text := w.call(method, path, body, nil)
	if got != code {
		w.t.Errorf("%s %s %s: %d, want %d: %s", method, path, body, got, code, text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			w.t.Errorf("%s %s %s: %q does not say %q", method, path, body, text, word)
		}
	}
}

func TestAddressCalls(t *testing.T) {
	w := newAddressWorld(t)
	w.uses("node1", "10.1.0.2", "10.1.0.3", "10.1.0.254")
	var got, second api.ReserveAnswer
	w.mustCall("POST", api.PathIPReserve, `{"runner": "Node1", "ip": "10.1.0.9", "ttl": 60, "name": "web"}`, &got)
	if got.IP.String() != "10.1.0.9" || got.Runner != "node1" || got.Name != "web" || got.TTL != 60 || got.Remaining != 60 ||
		got.State != api.StateReserved || got.IsUsed || got.Token == "" || got.ID == "" {
		t.Errorf("reserved %+v", got)
	}
	if left := time.Until(got.ExpiresAt); left < 50*time.Second || left > 61*time.Second {
		t.Errorf("it expires in %s", left)
	}
	// As the existing system's tools ask.
	w.mustCall("POST", api.PathIPReserve+"?runner=node1&ttl=300", "", &second)
	if second.IP.String() != "10.1.255.254" {
		t.Errorf("any address: %s", second.IP)
	}
	var free api.AvailableIPs
	w.mustCall("GET", api.PathIPAvailable+"?runner=node1&limit=7", "", &free)
	if got := fmt.Sprint(free.AvailableIPs["node1"]); got != "[10.1.0.4 10.1.0.5 10.1.0.6 10.1.0.7 10.1.0.8 10.1.0.10 10.1.0.11]" || len(free.AvailableIPs) != 1 {
		t.Errorf("free are %v", free.AvailableIPs)
	}
	w.mustCall("GET", api.PathIPAvailable, "", &free)
	if len(free.AvailableIPs) != 2 || len(free.AvailableIPs["node2"]) != api.DefaultAvailable {
		t.Errorf("free are %v", free.AvailableIPs)
	}
	var info api.IPInfo
	w.mustCall("GET", api.PathIPInfo+"node1", "", &info)
	if info.RunnerID != w.answers["node1"].RunnerID || info.Subnet.String() != "10.1.0.0/16" || info.Gateway.String() != "10.1.0.1" ||
		info.IPRange.First.String() != "10.1.0.2" || info.IPRange.Last.String() != "10.1.255.254" || info.HostOnSubnet.String() != "10.1.0.254" ||
		info.Total != 65532 || info.Used != 2 || info.Reserved != 2 || info.Available != 65528 || !info.Known {
		t.Errorf("info %+v", info)
	}
	w.uses("node1", "10.1.0.9")
	var all api.Reservations
	w.mustCall("GET", api.PathIPReservations, "", &all)
	if len(all.Reservations) != 2 || all.Reservations[0].State != api.StateInUse || !all.Reservations[0].IsUsed || all.Reservations[1].IsUsed {
		t.Errorf("reservations %+v", all)
	}
	w.mustCall("GET", api.PathIPReservations+"?runner=node2", "", &all)
	if len(all.Reservations) != 0 {
		t.Errorf("on node2: %+v", all)
	}
	if _, text := w.call("GET", api.PathIPReservations, "", nil); strings.Contains(text, got.Token) || strings.Contains(text, second.Token) {
		t.Error("the list shows a token")
	}
	w.wants(http.StatusConflict, "POST", api.PathIPRelease, `{"token": "`+got.Token+`"}`, "in use by a container")
	var released api.ReleaseIPAnswer
	w.mustCall("POST", api.PathIPRelease+"?token="+second.Token, "", &released)
	if !released.Released || released.IP != second.IP || released.Runner != "node1" {
		t.Errorf("released %+v", released)
	}
	w.wants(http.StatusGone, "POST", api.PathIPRelease, `{"token": "`+second.Token+`"}`, "was released")
	if strings.Contains(w.log.String(), got.Token) || !strings.Contains(w.log.String(), got.ID) {
		t.Error("the log has a token, or does not name the reservation")
	}
}

func TestAddressRefusals(t *testing.T) {
	w := newAddressWorld(t)
	w.mustCall("POST", api.PathIPReserve, `{"runner": "node1", "ip": "10.1.0.9"}`, nil)
	for _, c := range []struct {
		code               int
		method, path, body string
		word               string
	}{
		{400, "POST", api.PathIPReserve, "", "runner"},
		{400, "POST", api.PathIPReserve, `[]`, "not a JSON object"},
		{400, "POST", api.PathIPReserve, `{"runner": "node1", "ip": "10.1.0.254"}`, "the Host's address"},
		{400, "POST", api.PathIPReserve, `{"runner": "node1", "ip": "10.2.0.9"}`, "not in the subnet 10.1.0.0/16"},
		{400, "POST", api.PathIPReserve, `{"runner": "node1", "ttl": 100000}`, "24h0m0s"},
		{400, "POST", api.PathIPReserve, `{"runner": "node1", "ttl": 0.5}`, "1s"},
		{400, "POST", api.PathIPReserve, `{"runner": "node1", "name": "../x"}`, "letters"},
		{404, "POST", api.PathIPReserve, `{"runner": "node9"}`, "kohaku node overlay"},
		{409, "POST", api.PathIPReserve, `{"runner": "node1", "ip": "10.1.0.9"}`, "reserved for another 5m0s"},
		{413, "POST", api.PathIPReserve, strings.Repeat(" ", api.MaxBody+1), "longer than"},
		{400, "POST", api.PathIPRelease, "", "token"},
		{403, "POST", api.PathIPRelease, `{"token": "x"}`, "not a token of a reservation"},
		{404, "GET", api.PathIPInfo + "node9", "", "no runner"},
		{400, "GET", api.PathIPInfo + "a_b", "", "hostname"},
		{404, "GET", api.PathIPAvailable + "?runner=node9", "", "no runner"},
		{400, "GET", api.PathIPAvailable + "?limit=0", "", "1..1000"},
		{400, "GET", api.PathIPReservations + "?runner=a_b", "", "hostname"},
	} {
		w.wants(c.code, c.method, c.path, c.body, c.word)
	}
	w.cfg.Overlay.Enabled = false
	w.wants(503, "POST", api.PathIPReserve, `{"runner": "node1"}`, "Overlay not enabled")
	w.wants(503, "GET", api.PathIPAvailable, "", "Overlay not enabled")
}

// A runner's reservations end with its allocation, however that ends.
func TestReservationsEndWithTheRunner(t *testing.T) {
	w := newAddressWorld(t)
	w.mustCall("POST", api.PathIPReserve, `{"runner": "node1"}`, nil)
	w.mustCall("POST", api.PathIPReserve, `{"runner": "node2"}`, nil)
	if _, err := w.host.release("node1"); err != nil {
		t.Fatal(err)
	}
	w.wants(404, "POST", api.PathIPReserve, `{"runner": "node1"}`, "no runner")
	var all api.Reservations
	w.mustCall("GET", api.PathIPReservations, "", &all)
	if len(all.Reservations) != 1 || all.Reservations[0].Runner != "node2" {
		t.Errorf("left are %+v", all)
	}
	w.host.reconcile() // writes it down
	w.clock.advance(time.Hour)
	if _, err := w.host.cleanup(); err != nil {
		t.Fatal(err)
	}
	w.host.reconcile()
	w.kill()
	w.begin()
	if w.mustCall("GET", api.PathIPReservations, "", &all); len(all.Reservations) != 0 {
		t.Errorf("after a restart: %+v", all)
	}
}

// A Host that is killed and starts again knows its reservations; it gives none
// before it has heard which addresses are in use.
func TestReservationsSurviveARestart(t *testing.T) {
	w := newAddressWorld(t)
	var got api.ReserveAnswer
	w.mustCall("POST", api.PathIPReserve, `{"runner": "node1", "ttl": 60, "name": "web"}`, &got)
	w.kill()
	w.now.At += 20 * time.Second
	w.begin()
	var all api.Reservations
	w.mustCall("GET", api.PathIPReservations, "", &all)
	if len(all.Reservations) != 1 || all.Reservations[0].Remaining != 40 || all.Reservations[0].ID != got.ID {
		t.Fatalf("after a restart: %+v", all)
	}
	w.wants(503, "POST", api.PathIPReserve, `{"runner": "node1"}`, "has not yet said", "heartbeat")
	var free api.AvailableIPs
	w.mustCall("GET", api.PathIPAvailable, "", &free)
	if len(free.Unknown) != 2 || len(free.AvailableIPs) != 0 {
		t.Errorf("available before any heartbeat: %+v", free)
	}
	w.uses("node1", "10.1.255.253")
	var next api.ReserveAnswer
	w.mustCall("POST", api.PathIPReserve, `{"runner": "node1"}`, &next)
	if next.IP.String() != "10.1.255.252" {
		t.Errorf("%s was given; 10.1.255.254 is reserved, .253 in use", next.IP)
	}
	w.mustCall("POST", api.PathIPRelease, `{"token": "`+got.Token+`"}`, nil)

	// A reboot: the devices are gone with the table, and the runner registers anew.
	w.kill()
	for _, device := range []string{"vxkr1", "vxkr2"} {
		if err := w.kernel.Delete(device); err != nil {
			t.Fatal(err)
		}
	}
	w.now = reserve.Instant{Boot: "b", At: time.Second}
	w.begin()
	q := request("node1", runnerID, runnerAddr)
	q.PreviousID = 1
	w.answers["node1"] = w.join(q)
	w.mustCall("GET", api.PathIPReservations, "", &all)
	if len(all.Reservations) != 1 || all.Reservations[0].IP != next.IP {
		t.Errorf("after a reboot: %+v", all)
	}
}

func TestReservationsThatCannotBeKept(t *testing.T) {
	w := newAddressWorld(t)
	var got api.ReserveAnswer
	w.mustCall("POST", api.PathIPReserve, `{"runner": "node1"}`, &got)
	path := filepath.Join(w.cfg.Host.StateDir, reserve.FileName)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The directory is gone, and a file is in its place.
	aside := w.cfg.Host.StateDir + ".aside"
	if err := os.Rename(w.cfg.Host.StateDir, aside); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.cfg.Host.StateDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.wants(503, "POST", api.PathIPReserve, `{"runner": "node1"}`, "as before", "not a directory")
	w.wants(503, "POST", api.PathIPRelease, `{"token": "`+got.Token+`"}`, "as before")
	w.uses("node1", got.IP.String())
	w.host.reconcile()
	if p := strings.Join(w.host.status().Problems, "\n"); !strings.Contains(p, "reservations could not be written") {
		t.Errorf("problems %q", p)
	}
	if err := os.Remove(w.cfg.Host.StateDir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, w.cfg.Host.StateDir); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file has changed: %v", err)
	}
	w.host.reconcile()
	if p := w.host.status().Problems; len(p) != 0 {
		t.Errorf("problems %q", p)
	}

	// Damaged: set aside and said, and all goes on.
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.kill()
	w.begin()
	if !strings.Contains(w.log.String(), path+".damaged") {
		t.Error("the log does not say where the damaged file is")
	}
	w.uses("node1")
	w.wants(403, "POST", api.PathIPRelease, `{"token": "`+got.Token+`"}`, "state was lost")
	w.mustCall("POST", api.PathIPReserve, `{"runner": "node1"}`, nil)

	// Not to be read at all: the overlay runs, and the calls say it.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	w.kill()
	w.begin()
	w.uses("node1")
	w.wants(503, "POST", api.PathIPReserve, `{"runner": "node1"}`, "could not read", "kohaku status")
	if p := strings.Join(w.host.status().Problems, "\n"); !strings.Contains(p, "cannot be reserved") {
		t.Errorf("problems %q", p)
	}
}
