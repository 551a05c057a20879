// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"
)

// engine is as much of dockerd as a Keeper can tell from the real one: networks and
// containers on them, with the rules of its version for options.
type engine struct {
	t      *testing.T
	socket string
	api    apiVersion
	server *http.Server // nil: not running

	mu         sync.Mutex
	next       int
	networks   map[string]network.Inspect // by id
	containers []container.Summary
	extra      map[string]string // default-network-opts
	failCreate string
	creates    int
	removes    int
	listeners  map[chan events.Message]bool
	ended      chan struct{}
}

func newEngine(t *testing.T, version string) *engine {
	v, err := parseAPIVersion(version)
	if err != nil {
		t.Fatal(err)
	}
	return &engine{
		t: t, api: v, socket: filepath.Join(t.TempDir(), "docker.sock"),
		networks: make(map[string]network.Inspect), listeners: make(map[chan events.Message]bool),
	}
}

func (e *engine) start() {
	e.t.Helper()
	l, err := net.Listen("unix", e.socket)
	if err != nil {
		e.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("API-Version", e.api.String()) })
	mux.HandleFunc("GET /{v}/version", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"Version": "test", "ApiVersion": e.api.String()})
	})
	mux.HandleFunc("GET /{v}/events", e.events)
	mux.HandleFunc("GET /{v}/networks", e.list)
	mux.HandleFunc("GET /{v}/networks/{id}", e.inspect)
	mux.HandleFunc("POST /{v}/networks/create", e.create)
	mux.HandleFunc("DELETE /{v}/networks/{id}", e.remove)
	mux.HandleFunc("GET /{v}/containers/json", e.ps)
	server, served := &http.Server{Handler: mux}, make(chan struct{})
	e.change(func() { e.server, e.ended = server, make(chan struct{}) })
	go func() { _ = server.Serve(l); close(served) }()
	e.t.Cleanup(func() { e.stop(); <-served })
}

// stop is the end of dockerd; what it has stored stays.
func (e *engine) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.server != nil {
		close(e.ended)
		e.server.Close()
		e.server = nil
	}
}

func (e *engine) change(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func answer(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, code int, text string) {
	answer(w, code, map[string]string{"message": text})
}

func (e *engine) events(w http.ResponseWriter, r *http.Request) {
	ch := make(chan events.Message, 64)
	var ended chan struct{}
	e.change(func() { e.listeners[ch], ended = true, e.ended })
	defer e.change(func() { delete(e.listeners, ch) })
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-ended:
			return
		case m := <-ch:
			_ = json.NewEncoder(w).Encode(m)
			w.(http.Flusher).Flush()
		}
	}
}

// tell sends an event. Guarded by mu.
func (e *engine) tell(what events.Action) {
	for ch := range e.listeners {
		ch <- events.Message{Type: events.NetworkEventType, Action: what}
	}
}

func filters(r *http.Request) map[string]map[string]bool {
	var f map[string]map[string]bool
	_ = json.Unmarshal([]byte(r.URL.Query().Get("filters")), &f)
	return f
}

func (e *engine) list(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := filters(r)
	out := []network.Network{}
	for _, id := range slices.Sorted(maps.Keys(e.networks)) {
		n := e.networks[id].Network
		keep := true
		for name := range f["name"] {
			keep = keep && strings.Contains(n.Name, name)
		}
		for label := range f["label"] {
			key, value, _ := strings.Cut(label, "=")
			keep = keep && n.Labels[key] == value
		}
		if keep {
			out = append(out, n)
		}
	}
	answer(w, http.StatusOK, out)
}

func (e *engine) inspect(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.networks[r.PathValue("id")]
	if !ok {
		refuse(w, http.StatusNotFound, "network not found")
		return
	}
	answer(w, http.StatusOK, n)
}

// check judges options as an engine of its version does.
func (e *engine) check(options map[string]string) error {
	mode, ok := options[optGatewayMode]
	if !ok || e.api.less(apiVersion{1, 46}) { // unknown options are stored and ignored
		return nil
	}
	if mode == "nat-unprotected" && e.api.less(apiVersion{1, 48}) || !slices.Contains([]string{"nat", "nat-unprotected", "routed", "isolated"}, mode) {
		return fmt.Errorf("failed to parse %s value: %s (unknown gateway mode %s)", optGatewayMode, mode, mode)
	}
	return nil
}

func (e *engine) create(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var q network.CreateRequest
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	if e.failCreate != "" {
		refuse(w, http.StatusForbidden, e.failCreate)
		return
	}
	if err := e.check(q.Options); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	for _, n := range e.networks {
		if n.Options[optBridge] == q.Options[optBridge] {
			refuse(w, http.StatusForbidden, "networks have same bridge name")
			return
		}
	}
	e.creates++
	id := e.put(network.Network{Name: q.Name, Driver: q.Driver, IPAM: *q.IPAM, Options: q.Options, Labels: q.Labels})
	answer(w, http.StatusCreated, network.CreateResponse{ID: id})
}

// put stores a network as the engine would. Guarded by mu.
func (e *engine) put(n network.Network) string {
	e.next++
	n.ID, n.Scope, n.EnableIPv4 = fmt.Sprintf("id%04d", e.next), "local", !e.api.less(apiVersion{1, 48})
	n.Options = maps.Clone(n.Options)
	for k, v := range e.extra {
		n.Options[k] = v
	}
	e.networks[n.ID] = network.Inspect{Network: n, Containers: map[string]network.EndpointResource{}}
	e.tell(events.ActionCreate)
	return n.ID
}

func (e *engine) remove(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, ok := e.networks[r.PathValue("id")]
	switch {
	case !ok:
		refuse(w, http.StatusNotFound, "network not found")
	case len(n.Containers) > 0:
		refuse(w, http.StatusForbidden, "network has active endpoints")
	default:
		e.removes++
		delete(e.networks, n.ID)
		e.tell(events.ActionDestroy)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (e *engine) ps(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := []container.Summary{}
	for _, c := range e.containers {
		for name := range c.NetworkSettings.Networks {
			if filters(r)["network"][name] {
				out = append(out, c)
			}
		}
	}
	answer(w, http.StatusOK, out)
}

// attach lets a container run on a network, with an address.
func (e *engine) attach(id, name string, addr netip.Prefix) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.networks[id].Containers["c"+name] = network.EndpointResource{Name: name, IPv4Address: addr}
	e.tell(events.ActionConnect)
}

func (e *engine) detach(id, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.networks[id].Containers, "c"+name)
	e.tell(events.ActionDisconnect)
}

// stopped adds a container that is not running and wants an address.
func (e *engine) stopped(networkName, name string, addr netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers = append(e.containers, container.Summary{
		ID: "c" + name, Names: []string{"/" + name},
		NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{
			networkName: {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: addr}},
		}},
	})
	e.tell(events.ActionCreate)
}

// named gives the network of a name.
func (e *engine) named(name string) (network.Inspect, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.networks {
		if n.Name == name {
			n.Containers = maps.Clone(n.Containers)
			return n, true
		}
	}
	return network.Inspect{}, false
}
