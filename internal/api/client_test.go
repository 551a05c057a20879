// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve gives a client of a server that answers every call with code and body.
func serve(t *testing.T, code int, body string) *Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", "http://192.0.2.1/")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return client(t, server.URL)
}

func client(t *testing.T, addr string) *Client {
	t.Helper()
	c, err := NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestClientErrors(t *testing.T) {
	cases := []struct {
		name  string
		code  int
		body  string
		parts []string
	}{
		{"refusal", 409, `{"error":"the name is taken","hint":"choose another"}`,
			[]string{"register with the Host", "http://127.0.0.1:", "409", "the name is taken", "choose another"}},
		{"terminal codes", 409, `{"error":"\u001b[2Jgone","hint":""}`, []string{"409:  [2Jgone"}},
		{"another server", 404, `<html>`, []string{"404 Not Found", "right address and port"}},
		{"redirect", 302, ``, []string{"302 Found", "right address"}},
		{"another answer", 200, `hello`, []string{"not what this version expects", "same version"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := serve(t, c.code, c.body).Register(context.Background(), RegisterRequest{})
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range c.parts {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%q would steer a terminal", err)
			}
		})
	}
}

func TestClientNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	err = client(t, addr).Health(context.Background())
	if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "kohaku host") || Answered(err) {
		t.Errorf("error %v; want ECONNREFUSED and what to do", err)
	}
}

func TestClientGivesUp(t *testing.T) {
	stuck := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-stuck }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(stuck) })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := client(t, server.URL).Health(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestIsNotFound(t *testing.T) {
	_, err := serve(t, 404, `{"error":"no such runner","hint":"register again"}`).Heartbeat(context.Background(), "a", Heartbeat{})
	if !IsNotFound(err) || !Answered(err) {
		t.Errorf("IsNotFound(%v) = false", err)
	}
	_, err = serve(t, 409, `{"error":"no","hint":""}`).Heartbeat(context.Background(), "a", Heartbeat{})
	if IsNotFound(err) || !Answered(err) {
		t.Errorf("IsNotFound(%v) = true", err)
	}
}

func TestNewClientRefuses(t *testing.T) {
	for _, addr := range []string{"", "host", ":8000", "host:", "a/b:1", "user@host:1", "https://host:1", "host:1/x", "a b:1"} {
		if _, err := NewClient(addr); err == nil || !strings.Contains(err.Error(), "HOST:PORT") {
			t.Errorf("NewClient(%q): %v", addr, err)
		}
	}
	for _, addr := range []string{"192.0.2.1:8000", "http://host:8000/", "[2001:db8::1]:8000"} {
		if _, err := NewClient(addr); err != nil {
			t.Errorf("NewClient(%q): %v", addr, err)
		}
	}
}
