// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"kohaku/conf"
	"kohaku/internal/problem"
)

func someFacts() Facts {
	return Facts{
		RunnerName: "node1", RunnerID: 1, Overlay: netip.MustParsePrefix("10.0.0.0/8"), Subnet: netip.MustParsePrefix("10.1.0.0/16"),
		Gateway: netip.MustParseAddr("10.1.0.1"), Host: netip.MustParseAddr("10.0.0.1"), MTU: 1450, Network: "kohakuriver-overlay",
	}
}

func TestFacts(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	f := newFactServer(Options{Log: log}, problem.NewSet(log))
	f.serve(someFacts())
	h := f.handler()
	ask := func(method, path, from string) (int, string) {
		q := httptest.NewRequest(method, path, nil)
		q.RemoteAddr = from
		w := httptest.NewRecorder()
		h.ServeHTTP(w, q)
		return w.Code, w.Body.String()
	}
	code, body := ask("GET", "/overlay", "10.1.0.2:40000")
	var got Facts
	if err := json.Unmarshal([]byte(body), &got); code != http.StatusOK || err != nil || got != someFacts() {
		t.Errorf("status %d, %v, facts %s", code, err, body)
	}
	const env = `KOHAKU_GATEWAY=10.0.0.1
KOHAKU_RUNNER=node1
KOHAKU_RUNNER_ID=1
KOHAKU_RUNNER_GATEWAY=10.1.0.1
KOHAKU_OVERLAY=10.0.0.0/8
KOHAKU_SUBNET=10.1.0.0/16
KOHAKU_MTU=1450
KOHAKU_NETWORK=kohakuriver-overlay
`
	if code, body := ask("GET", "/overlay/env", "10.2.0.9:40000"); code != http.StatusOK || body != env {
		t.Errorf("status %d, environment:\n%s", code, body)
	}
	for _, c := range []struct {
		method, path, from string
		code               int
	}{
		{"HEAD", "/overlay", "10.1.0.2:1", http.StatusOK},
		{"POST", "/overlay", "10.1.0.2:1", http.StatusMethodNotAllowed},
		{"DELETE", "/overlay/env", "10.1.0.2:1", http.StatusMethodNotAllowed},
		{"GET", "/", "10.1.0.2:1", http.StatusNotFound},
		{"GET", "/overlay", "192.0.2.9:1", http.StatusForbidden},
		{"GET", "/overlay", "nonsense", http.StatusForbidden},
	} {
		if code, _ := ask(c.method, c.path, c.from); code != c.code {
			t.Errorf("%s %s from %s: status %d, want %d", c.method, c.path, c.from, code, c.code)
		}
	}
}

// The daemon serves facts, at the gateway of the subnet that it has.
func TestFactsFollowTheSubnet(t *testing.T) {
	w := newWorld(t)
	w.startReady()
	first := <-w.facts
	// The listener is on loopback, which is not in the overlay.
	if res, err := http.Get("http://" + first.Addr().String() + "/overlay"); err != nil {
		t.Error(err)
	} else if res.Body.Close(); res.StatusCode != http.StatusForbidden {
		t.Errorf("status %d", res.StatusCode)
	}
	a := answerFor(conf.MustParsePlan("172.16.0.0/12/6/14"), 3)
	w.host.set(a)
	<-w.facts
	if at := a.Gateway.String() + ":8001"; !strings.Contains(w.log.String(), "facts are asked for at "+at) {
		t.Errorf("not served at %s:\n%s", at, w.log)
	}
	if c, err := net.Dial("tcp", first.Addr().String()); err == nil {
		c.Close()
		t.Error("the old listener is still open")
	}
}

// Whoever sends a header that does not end gets no more than a refusal.
func TestFactsHeaderIsBounded(t *testing.T) {
	w := newWorld(t)
	w.startReady()
	c, err := net.Dial("tcp", (<-w.facts).Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() {
		_, _ = io.WriteString(c, "GET /overlay HTTP/1.1\r\nHost: x\r\nX-A: "+strings.Repeat("a", 64<<10)+"\r\n\r\n") // refused in the midst of it
	}()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.Contains(line, "431") {
		t.Errorf("answer %q", line)
	}
}
