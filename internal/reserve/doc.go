// SPDX-License-Identifier: Apache-2.0

// Package reserve keeps addresses of containers for whoever asks for them in
// advance: a master's address has to be known before its workers start.
//
// A reservation is a lease on one address of one Runner's subnet. It ends when its
// time to live is over, when it is released with its token, or with its Runner's
// allocation. `docker run --ip ADDRESS` uses it: as soon as the Runner reports that
// a container has the address, the lease stands still, for as long as that is so.
// When the container is gone, the lease begins anew with its whole time to live, so
// that a container that restarts, or a Runner that reboots, finds its address free.
//
// Time is that of the kernel's boot clock (CLOCK_BOOTTIME), which nobody can set:
// a wall clock that jumps ends nothing early. What is left of each lease is written
// down with the boot's id and its clock. The next process of the same boot takes
// the time between from it; after a reboot, when nobody knows how long the machine
// was off, leases go on with what was left of them when the file was written.
//
// Docker does not know of reservations: without --ip it gives a container the next
// address by its own count, which goes up from the lowest. Addresses that the
// caller does not choose are therefore taken from the top of the subnet down.
package reserve

import "time"

// Bounds of what may be asked for.
const (
	DefaultTTL = 5 * time.Minute
	MinTTL     = time.Second
	MaxTTL     = 24 * time.Hour

	// MaxTotal is how many reservations a Host keeps, MaxPerRunner how many of
	// them may be on one Runner.
	MaxTotal     = 4096
	MaxPerRunner = 256

	// MaxName is the longest name in bytes that a reservation can have.
	MaxName = 64
)
