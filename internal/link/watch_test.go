// SPDX-License-Identifier: Apache-2.0

package link_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"kohaku/internal/link/linktest"
)

func TestWatch(t *testing.T) {
	linktest.Namespace(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, err := k.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Several messages belong to one change: those of the last are taken first.
	told := func(what string, do func()) {
		t.Helper()
		for quiet := false; !quiet; {
			select {
			case <-changes:
			case <-time.After(50 * time.Millisecond):
				quiet = true
			}
		}
		do()
		select {
		case <-changes:
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing was told of: %s", what)
		}
	}
	told("a device", func() { bridge(t, "br0") })
	told("an address", func() {
		if _, err := k.EnsureAddrs("br0", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, nil); err != nil {
			t.Fatal(err)
		}
	})
	told("a route", func() {
		if _, err := k.EnsureRoute("br0", netip.MustParsePrefix("198.51.100.0/24"), netip.MustParseAddr("192.0.2.9")); err != nil {
			t.Fatal(err)
		}
	})
	told("an IPv6 address", func() {
		if _, err := k.EnsureAddrs("br0", []netip.Prefix{netip.MustParsePrefix("fd00::1/64")}, nil); err != nil {
			t.Fatal(err)
		}
	})
	told("a device down", func() {
		l, err := netlink.LinkByName("br0")
		if err == nil {
			err = netlink.LinkSetDown(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	told("a device gone", func() {
		if err := k.Delete("br0"); err != nil {
			t.Fatal(err)
		}
	})
	cancel()
	for deadline := time.After(20 * time.Second); ; {
		select {
		case _, open := <-changes:
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the watch does not end")
		}
	}
}
