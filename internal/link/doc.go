// SPDX-License-Identifier: Apache-2.0

// Package link puts devices, addresses, routes and sysctls of this machine into a
// wanted state, by rtnetlink and /proc/sys.
//
// Everything is idempotent: each Ensure function looks first, changes only what
// differs, and says whether it changed anything. Every error is an *Error with the
// operation, the device and the kernel's own answer.
//
// The functions act on the network namespace of the calling thread. /sys is never
// read: a process that entered another namespace may still see the old one there.
package link

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is an operation on this machine's network that failed.
type Error struct {
	Op     string // what was tried, such as "set the MTU"
	Device string // empty when none is concerned
	Err    error  // the kernel's answer
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Device != "" {
		fmt.Fprintf(&b, " of %s", e.Device)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	if errors.Is(e.Err, unix.EPERM) || errors.Is(e.Err, unix.EACCES) {
		b.WriteString(" (run as root, or with CAP_NET_ADMIN)")
	}
	return b.String()
}

// Unwrap gives the kernel's answer.
func (e *Error) Unwrap() error { return e.Err }

// ErrNotFound is what a device that does not exist is reported with.
var ErrNotFound = errors.New("no such device")

func fail(op, device string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Device: device, Err: err}
}

// Kernel is this machine's network. The zero value is ready for use.
type Kernel struct{}
