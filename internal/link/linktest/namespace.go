// SPDX-License-Identifier: Apache-2.0

// Package linktest helps to test code that uses package link: a private network
// namespace for a test, and Fake, a machine's network in memory.
package linktest

import (
	"errors"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace moves the test into a network namespace of its own, with loopback up.
// The goroutine keeps its thread for good, and the thread dies with the goroutine,
// so nothing leaks into other tests; goroutines and subtests started later are not
// in the namespace. It takes root; without it the test is skipped.
func Namespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
			runtime.UnlockOSThread()
			t.Skip("making a network namespace takes root")
		}
		t.Fatalf("unshare: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
}
