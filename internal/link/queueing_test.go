// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"

	"kohaku/internal/link"
	"kohaku/internal/link/ethtool"
	"kohaku/internal/link/linktest"
)

func TestQueueing(t *testing.T) {
	linktest.Namespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "q0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "q1"}); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("q0")
	if err != nil {
		t.Fatal(err)
	}
	var k link.Kernel
	if q, err := k.Queueing("q0"); err != nil || q.Rate != 0 {
		t.Errorf("%+v, %v", q, err)
	}
	if err := netlink.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
		Rate:       100e6 / 8, Buffer: 64 << 10, Limit: 256 << 10,
	}); err != nil {
		t.Fatal(err)
	}
	if q, err := k.Queueing("q0"); err != nil || q.Qdisc != "tbf" || q.Rate != 100e6 || q.Drops != 0 {
		t.Errorf("%+v, %v", q, err)
	}
	if _, err := k.Queueing("q2"); !errors.Is(err, link.ErrNotFound) {
		t.Errorf("error %v", err)
	}

	// Its offloads: what is switched off stays available.
	d, err := ethtool.Open("q0")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const gso = "tx-generic-segmentation"
	for _, on := range []bool{false, true} {
		if err := d.Set(map[string]bool{gso: on, "no such offload": true}); err != nil {
			t.Fatal(err)
		}
		all, err := d.Features()
		found := false
		for _, f := range all {
			if f.Name == gso {
				found = true
				if !f.Available || f.Active != on {
					t.Errorf("switched to %v: %+v", on, f)
				}
			}
		}
		if err != nil || !found {
			t.Errorf("features %v, %v", all, err)
		}
	}
	if _, err := ethtool.Open("a name that no device can have"); err == nil {
		t.Error("a device that cannot be was opened")
	}
}
