// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"math"
	"net/netip"
	"net/url"
	"strings"
	"testing"
)

func TestDecodeReserve(t *testing.T) {
	want := ReserveRequest{Runner: "node1", IP: netip.MustParseAddr("10.1.0.9"), TTL: 90, Name: "web"}
	for body, query := range map[string]string{
		`{"runner": "Node1", "ip": "10.1.0.9", "ttl": 90, "name": "web"}`:         "runner=other&ttl=x",
		`{"runner": "node1", "ip": "::ffff:10.1.0.9", "ttl": 9e1, "name": "web"}`: "",
		"": "runner=NODE1&ip=10.1.0.9&ttl=90&name=web",
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeReserve(strings.NewReader(body), v); err != nil || got != want {
			t.Errorf("%s?%s: %+v, %v", body, query, got, err)
		}
	}
	if got, err := DecodeReserve(nil, url.Values{"runner": {"a"}}); err != nil || got != (ReserveRequest{Runner: "a"}) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, c := range []struct{ body, query, field string }{
		{`{}`, "runner=node1", "runner"}, {"", "", "runner"}, {"", "runner=a_b", "runner"}, {`{"runner": 1}`, "", "runner"},
		{`{"runner": "a", "ip": "fd00::1"}`, "", "ip"}, {"", "runner=a&ip=x", "ip"}, {"", "runner=a&ip=10.1.0.9%2516", "ip"},
		{`{"runner": "a", "ttl": -1}`, "", "ttl"}, {`{"runner": "a", "ttl": 1e30}`, "", "ttl"}, {"", "runner=a&ttl=NaN", "ttl"},
		{"", "runner=a&ttl=5m", "ttl"}, {"", "runner=a&name=%1b", "name"}, {`{"runner": "a", "name": "` + strings.Repeat("n", 129) + `"}`, "", "name"},
	} {
		v, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		_, err = DecodeReserve(strings.NewReader(c.body), v)
		if f, ok := errors.AsType[*FieldError](err); !ok || f.Field != c.field {
			t.Errorf("%s?%s: %v, want one about %s", c.body, c.query, err, c.field)
		}
	}
	if _, err := DecodeReserve(strings.NewReader(strings.Repeat(" ", MaxBody+2)), nil); !errors.Is(err, ErrBodyTooLarge) {
		t.Errorf("a large body: %v", err)
	}
}

func TestDecodeReleaseIP(t *testing.T) {
	for body, query := range map[string]string{`{"token": "abc"}`: "token=x", "": "token=abc"} {
		v, _ := url.ParseQuery(query)
		if got, err := DecodeReleaseIP(strings.NewReader(body), v); err != nil || got.Token != "abc" {
			t.Errorf("%s?%s: %+v, %v", body, query, got, err)
		}
	}
	for _, body := range []string{"", "{}", `{"token": ""}`, `{"token": "\u001b"}`, `{"token": "` + strings.Repeat("a", 2000) + `"}`} {
		if _, err := DecodeReleaseIP(strings.NewReader(body), nil); err == nil {
			t.Errorf("%.40s was taken", body)
		}
	}
}

func TestDecodeAvailable(t *testing.T) {
	for query, want := range map[string]struct {
		runner string
		limit  int
	}{"": {"", DefaultAvailable}, "runner=NODE1&limit=7": {"node1", 7}, "limit=1000": {"", 1000}} {
		v, _ := url.ParseQuery(query)
		if runner, limit, err := DecodeAvailable(v); err != nil || runner != want.runner || limit != want.limit {
			t.Errorf("%s: %q, %d, %v", query, runner, limit, err)
		}
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=-1", "limit=x", "runner=a_b"} {
		v, _ := url.ParseQuery(query)
		if _, _, err := DecodeAvailable(v); err == nil {
			t.Errorf("%s was taken", query)
		}
	}
}

// What is accepted can be used as it is: no strange name, address or number.
func FuzzReserve(f *testing.F) {
	f.Add(`{"runner": "node1", "ip": "10.1.0.9", "ttl": 90, "name": "web"}`, "")
	f.Add("", "runner=node1&ip=10.1.0.9&ttl=90&name=web")
	f.Add(`{"runner": "node1", "ttl": 1e999}`, "")
	f.Add(`{"token": "kohaku-ip-"}`, "token=x")
	f.Fuzz(func(t *testing.T, body, query string) {
		v, _ := url.ParseQuery(query) // what could be read of it, as net/http does
		if q, err := DecodeReserve(strings.NewReader(body), v); err == nil {
			name, err := CanonicalHostname(q.Runner)
			if err != nil || name != q.Runner || q.IP.IsValid() && !q.IP.Is4() || !(q.TTL >= 0 && q.TTL <= 1e9) || math.IsNaN(q.TTL) || !printable(q.Name) {
				t.Fatalf("%+v", q)
			}
		}
		if q, err := DecodeReleaseIP(strings.NewReader(body), v); err == nil && (q.Token == "" || len(q.Token) > maxTokenText || !printable(q.Token)) {
			t.Fatalf("%+v", q)
		}
		if runner, limit, err := DecodeAvailable(v); err == nil && (limit < 1 || limit > MaxAvailable || len(runner) > MaxHostname) {
			t.Fatalf("%q, %d", runner, limit)
		}
	})
}
