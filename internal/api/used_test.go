// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestUsedAddresses(t *testing.T) {
	subnet := netip.MustParsePrefix("10.1.0.0/16")
	var addrs []netip.Addr
	for _, s := range []string{"10.1.0.9", "::ffff:10.1.0.3", "10.2.0.2", "10.1.0.9", "fd00::1", "10.1.0.3"} {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	addrs = append(addrs, netip.Addr{})
	got, all := FitUsed(addrs, subnet)
	if fmt.Sprint(got) != "[10.1.0.3 10.1.0.9]" || !all {
		t.Errorf("%v, %v", got, all)
	}
	h, err := DecodeHeartbeat(strings.NewReader(strings.Replace(goodHeartbeat, `"runner_id":1`, `"runner_id":1,"used_addresses":["10.1.0.3","10.1.0.9"]`, 1)))
	if err != nil || fmt.Sprint(h.UsedAddresses) != fmt.Sprint(got) {
		t.Errorf("decoded %v, %v", h.UsedAddresses, err)
	}
	if err := h.CheckUsed(subnet); err != nil {
		t.Error(err)
	}
	if err := h.CheckUsed(netip.MustParsePrefix("10.1.0.0/29")); err == nil || !strings.Contains(err.Error(), "10.1.0.9") {
		t.Errorf("error %v", err)
	}

	// Not known is not none, also on the wire.
	for _, c := range []struct {
		addrs []netip.Addr
		known bool
	}{{nil, false}, {[]netip.Addr{}, true}, {[]netip.Addr{netip.MustParseAddr("10.2.0.2")}, true}} {
		var got Heartbeat
		sent := Heartbeat{}
		sent.UsedAddresses, _ = FitUsed(c.addrs, subnet)
		text, err := json.Marshal(sent)
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if err != nil || (got.UsedAddresses != nil) != c.known {
			t.Errorf("%v became %v, %v", c.addrs, got.UsedAddresses, err)
		}
	}

	many := make([]netip.Addr, 0, MaxUsedAddresses+1)
	for a := netip.MustParseAddr("10.1.0.1"); len(many) <= MaxUsedAddresses; a = a.Next() {
		many = append(many, a)
	}
	if got, all := FitUsed(many, subnet); len(got) != MaxUsedAddresses || all {
		t.Errorf("%d, %v", len(got), all)
	}
	if got, all := FitUsed(many[:MaxUsedAddresses], subnet); len(got) != MaxUsedAddresses || !all {
		t.Errorf("%d, %v", len(got), all)
	}
}
