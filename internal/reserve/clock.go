// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Instant is a point in time that only the running of a machine moves: so long
// after a boot.
type Instant struct {
	Boot string        // names the boot
	At   time.Duration // since then, sleep included
}

// Clock gives the present.
type Clock func() Instant

var bootID = sync.OnceValue(func() string {
	// Without it no boot is known to be the same, and no time is taken off.
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // random(4)
	return strings.TrimSpace(string(b))
})

// BootClock is the kernel's CLOCK_BOOTTIME (clock_gettime(2)) with its boot's id.
func BootClock() Instant {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Only a kernel before 2.6.39 does not have it.
		panic("reserve: CLOCK_BOOTTIME: " + err.Error())
	}
	return Instant{Boot: bootID(), At: time.Duration(ts.Nano())}
}
