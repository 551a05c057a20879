// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kohaku/internal/link"
	"kohaku/internal/link/linktest"
)

func TestLeadsInto(t *testing.T) {
	linktest.Namespace(t)
	bridge(t, "br")
	addTAP(t, "port")
	addTAP(t, "alone")
	for _, name := range []string{"port", "alone"} {
		if _, err := k.EnsureUp(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.EnsureMaster("port", "br"); err != nil {
		t.Fatal(err)
	}
	for device, addr := range map[string]string{"br": "10.1.0.1/24", "alone": "10.2.0.1/24"} {
		if _, err := k.EnsureAddrs(device, []netip.Prefix{netip.MustParsePrefix(addr)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		to, device string
		want       bool
	}{
		{"10.1.0.9", "br", true}, {"10.1.0.9", "port", true}, {"10.1.0.9", "alone", false},
		{"10.2.0.9", "alone", true}, {"10.2.0.9", "port", false},
	} {
		if got, err := k.LeadsInto(netip.MustParseAddr(c.to), c.device); got != c.want || err != nil {
			t.Errorf("%s into %s: %v, %v", c.to, c.device, got, err)
		}
	}
	if _, err := k.LeadsInto(netip.MustParseAddr("192.0.2.1"), "br"); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("no route: %v", err)
	}
	if _, err := k.LeadsInto(netip.MustParseAddr("10.1.0.9"), "nowhere"); !errors.Is(err, link.ErrNotFound) {
		t.Errorf("no device: %v", err)
	}
}

func TestFollowAddrs(t *testing.T) {
	linktest.Namespace(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	bridge(t, "br")
	bridge(t, "other")
	got := make(chan []netip.Prefix, 64)
	stop, err := k.FollowAddrs("br", func(p []netip.Prefix) { got <- p })
	if err != nil {
		t.Fatal(err)
	}
	holds := func(want string, is bool) {
		t.Helper()
		for {
			select {
			case p := <-got:
				if slices.Contains(p, netip.MustParsePrefix(want)) == is {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s: not told", want)
			}
		}
	}
	holds("10.1.0.1/24", false)
	add := func(device, prefix string) {
		t.Helper()
		if _, err := k.EnsureAddrs(device, []netip.Prefix{netip.MustParsePrefix(prefix)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	add("other", "10.3.0.1/24")
	add("br", "10.1.0.1/24")
	holds("10.1.0.1/24", true)
	l, err := netlink.LinkByName("br")
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr("10.1.0.1/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrDel(l, a); err != nil {
		t.Fatal(err)
	}
	holds("10.1.0.1/24", false)
	stop()
	if _, err := k.FollowAddrs("nowhere", func([]netip.Prefix) {}); !errors.Is(err, link.ErrNotFound) {
		t.Errorf("no device: %v", err)
	}
}
