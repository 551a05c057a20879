// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode"
)

const machineID = "0123456789abcdef0123456789abcdef"

const goodRegister = `{"hostname":"Node-1","machine_id":"` + machineID + `","address":"192.168.88.61",
	"underlay_mtu":1500,"settings":{"subnet":"10.0.0.0/8/8/16","vxlan_id":100,"vxlan_port":4789,"mtu":0},
	"version":"v1","of_a_newer_version":{"x":[1]}}`

const goodHeartbeat = `{"machine_id":"` + machineID + `","runner_id":1,"address":"192.168.88.61",
	"counters":{"rx_frames":1,"rx_bytes":2,"tx_frames":3,"tx_bytes":4,"drops":{"unknown_vni":5}},
	"problems":["firewall: not installed"],"of_a_newer_version":true}`

func TestDecodeRegister(t *testing.T) {
	q, err := DecodeRegister(strings.NewReader(goodRegister))
	if err != nil {
		t.Fatal(err)
	}
	if q.Hostname != "node-1" || q.MachineID != machineID || q.Address != netip.MustParseAddr("192.168.88.61") ||
		q.UnderlayMTU != 1500 || *q.Settings.Subnet != "10.0.0.0/8/8/16" || *q.Settings.VXLANID != 100 || *q.Settings.MTU != 0 {
		t.Errorf("decoded %+v", q)
	}
	mapped := strings.Replace(goodRegister, "192.168.88.61", "::ffff:192.168.88.61", 1)
	if q, err := DecodeRegister(strings.NewReader(mapped)); err != nil || !q.Address.Is4() {
		t.Errorf("a mapped address became %v, %v", q.Address, err)
	}
}

// Every case changes one thing of a good body and names the field that the refusal
// must name.
func TestDecodeRegisterRefuses(t *testing.T) {
	cases := []struct{ field, from, to string }{
		{"hostname", `"Node-1"`, `""`},
		{"hostname", `"Node-1"`, `"a..b"`},
		{"hostname", `"Node-1"`, `"a_b"`},
		{"hostname", `"Node-1"`, `"-a"`},
		{"hostname", `"Node-1"`, `"a\u001b[2J"`},
		{"hostname", `"Node-1"`, `"` + strings.Repeat("a", 65) + `"`},
		{"hostname", `"Node-1"`, `7`},
		{"hostname", `"hostname"`, `"host"`},
		{"machine_id", machineID, "0123"},
		{"machine_id", machineID, strings.ToUpper(machineID)},
		{"machine_id", machineID, strings.Repeat("0", 32)},
		{"machine_id", machineID, strings.Repeat("g", 32)},
		{"address", "192.168.88.61", ""},
		{"address", "192.168.88.61", "0.0.0.0"},
		{"address", "192.168.88.61", "224.0.0.1"},
		{"address", "192.168.88.61", "255.255.255.255"},
		{"address", "192.168.88.61", "fe80::1%eth0"},
		{"address", "192.168.88.61", "fe80::1"},
		{"", "192.168.88.61", "192.168.88"},
		{"underlay_mtu", "1500", "-1"},
		{"underlay_mtu", "1500", "65536"},
		{"settings.subnet", "10.0.0.0/8/8/16", "10/8"},
		{"settings.subnet", "10.0.0.0/8/8/16", "10.0.0.0/8/8/\\u0007"},
		{"settings.vxlan_port", "4789", "0"},
		{"settings.vxlan_port", "4789", "65536"},
		{"settings.vxlan_id", `"vxlan_id":100`, `"vxlan_id":-1`},
		{"settings.mtu", `"mtu":0`, `"mtu":65536`},
		{"version", `"v1"`, `"v1\n"`},
		{"version", `"v1"`, `"` + strings.Repeat("v", 129) + `"`},
		{"", "{", "["},
		{"", "}}", "}}x"},
	}
	for _, c := range cases {
		body := strings.Replace(goodRegister, c.from, c.to, 1)
		if body == goodRegister {
			t.Fatalf("case %+v changes nothing", c)
		}
		_, err := DecodeRegister(strings.NewReader(body))
		if err == nil {
			t.Errorf("%s -> %s was accepted", c.from, c.to)
			continue
		}
		field, _ := errors.AsType[*FieldError](err)
		if c.field != "" && (field == nil || field.Field != c.field) {
			t.Errorf("%s -> %s: error %q does not name %s", c.from, c.to, err, c.field)
		}
		if !printable(err.Error()) {
			t.Errorf("%s -> %s: the error %q holds control characters", c.from, c.to, err)
		}
	}
}

func TestDecodeHeartbeatRefuses(t *testing.T) {
	if _, err := DecodeHeartbeat(strings.NewReader(goodHeartbeat)); err != nil {
		t.Fatal(err)
	}
	many := make(map[string]uint64)
	for i := range maxDrops + 1 {
		many[fmt.Sprint("reason", i)] = 1
	}
	tooMany, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct{ field, from, to string }{
		{"machine_id", machineID, ""},
		{"runner_id", `"runner_id":1`, `"runner_id":0`},
		{"runner_id", `"runner_id":1`, `"runner_id":65536`},
		{"address", "192.168.88.61", "::"},
		{"problems", "firewall: not installed", `\u001b]0;x`},
		{"problems", "firewall: not installed", strings.Repeat("x", maxProblemText+1)},
		{"problems", `["firewall: not installed"]`, "[" + strings.Repeat(`"a",`, maxProblems) + `"a"]`},
		{"counters.drops", "unknown_vni", strings.Repeat("x", maxDropReason+1)},
		{"counters.drops", "unknown_vni", `\n`},
		{"counters.drops", `{"unknown_vni":5}`, string(tooMany)},
		{"counters.rx_frames", `"rx_frames":1`, `"rx_frames":-1`},
		{"used_addresses", `"runner_id":1`, `"runner_id":1,"used_addresses":["fd00::2"]`},
		{"used_addresses", `"runner_id":1`, `"runner_id":1,"used_addresses":[""]`},
		{"used_addresses", `"runner_id":1`, `"runner_id":1,"used_addresses":["10.1.0.3","10.1.0.2"]`},
		{"used_addresses", `"runner_id":1`, `"runner_id":1,"used_addresses":["10.1.0.2","10.1.0.2"]`},
		{"used_addresses", `"runner_id":1`, `"runner_id":1,"used_addresses":[` + strings.Repeat(`"10.1.0.2",`, MaxUsedAddresses) + `"10.1.0.3"]`},
	}
	for _, c := range cases {
		_, err := DecodeHeartbeat(strings.NewReader(strings.Replace(goodHeartbeat, c.from, c.to, 1)))
		field, _ := errors.AsType[*FieldError](err)
		if field == nil || field.Field != c.field {
			t.Errorf("%s -> %.40s: error %v does not name %s", c.from, c.to, err, c.field)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	pad := strings.Repeat(" ", MaxBody-len(goodRegister))
	if _, err := DecodeRegister(strings.NewReader(pad + goodRegister)); err != nil {
		t.Errorf("a body of %d bytes: %v", MaxBody, err)
	}
	if _, err := DecodeRegister(strings.NewReader(pad + " " + goodRegister)); !errors.Is(err, ErrBodyTooLarge) {
		t.Errorf("a body of %d bytes: %v", MaxBody+1, err)
	}
	endless := io.MultiReader(strings.NewReader(goodRegister), zeros{})
	if _, err := DecodeRegister(endless); !errors.Is(err, ErrBodyTooLarge) {
		t.Errorf("an endless body: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestFitProblems(t *testing.T) {
	long := strings.Repeat("ä", maxProblemText)
	got := FitProblems(append(make([]string, maxProblems), "one too many"))
	if len(got) != maxProblems {
		t.Errorf("%d problems left, want %d", len(got), maxProblems)
	}
	for _, p := range FitProblems([]string{long, "a\x1b[2J\xffb"}) {
		if err := checkText("problems", p, maxProblemText); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func FuzzRegisterBody(f *testing.F) {
	f.Add([]byte(goodRegister))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"hostname":"a","machine_id":"` + machineID + `","address":"2001:db8::1"}`))
	f.Add([]byte(`{"hostname":"a\u0000","machine_id":"` + machineID + `","address":"::ffff:1.2.3.4"}`))
	f.Add([]byte(`{"hostname":"a","HOSTNAME":"b","settings":{"mtu":1e3}}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, body []byte) {
		q, err := DecodeRegister(strings.NewReader(string(body)))
		if err != nil {
			return
		}
		if name, err := CanonicalHostname(q.Hostname); err != nil || name != q.Hostname {
			t.Fatalf("hostname %q: %v", q.Hostname, err)
		}
		if q.Address.Zone() != "" || q.Address.Is4In6() || !q.Address.IsValid() {
			t.Fatalf("address %v", q.Address)
		}
		again, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := DecodeRegister(strings.NewReader(string(again))); err != nil || r.Hostname != q.Hostname || r.Address != q.Address {
			t.Fatalf("%s came back as %+v, %v", again, r, err)
		}
	})
}

func FuzzHeartbeatBody(f *testing.F) {
	f.Add([]byte(goodHeartbeat))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"machine_id":"` + machineID + `","runner_id":1,"address":"2001:db8::1","problems":["\u001b"]}`))
	f.Add([]byte(`{"counters":{"drops":{"":18446744073709551616}}}`))
	f.Add([]byte(strings.Replace(goodHeartbeat, `"runner_id":1`, `"runner_id":1,"used_addresses":["10.1.0.2","10.1.0.3","fe80::1%0"]`, 1)))
	f.Fuzz(func(t *testing.T, body []byte) {
		h, err := DecodeHeartbeat(strings.NewReader(string(body)))
		if err != nil {
			return
		}
		for _, p := range h.Problems {
			if strings.ContainsFunc(p, unicode.IsControl) {
				t.Fatalf("problem %q", p)
			}
		}
		for reason := range h.Counters.Drops {
			if strings.ContainsFunc(reason, unicode.IsControl) {
				t.Fatalf("reason %q", reason)
			}
		}
		if len(h.UsedAddresses) > MaxUsedAddresses || !slices.IsSortedFunc(h.UsedAddresses, netip.Addr.Compare) {
			t.Fatalf("used addresses %v", h.UsedAddresses)
		}
		if _, err := json.Marshal(h); err != nil {
			t.Fatal(err)
		}
	})
}
