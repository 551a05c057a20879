// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"kohaku/internal/lab"
)

// Every machine of the lab gets processors of its own, as far as there are
// enough: what runs in it, load generators and tunnel programs alike, stays
// there. Left alone, the scheduler puts sender and receiver on one processor in
// some connections and on two in others, and a round trip is three times as
// quick in the first case; two real machines never share a processor. The
// kernel's own work is not placed: it is done where it arises, for all data
// paths alike.

// processors lists the processors that this process may use.
func processors() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, os.NewSyscallError("sched_getaffinity", err)
	}
	var cpus []int
	for i := range 64 * len(set) {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return cpus, nil
}

// place gives machine i of n its share of the processors. Where there are fewer
// than machines, the two at the ends have theirs and those between use all: that
// costs them throughput against having none placed, and is what makes two runs
// agree.
func place(cpus []int, i, n int) []int {
	switch {
	case len(cpus) < 2:
		return cpus
	case len(cpus) >= n:
		return cpus[i*len(cpus)/n : (i+1)*len(cpus)/n]
	case i == 0:
		return cpus[:len(cpus)/2]
	case i == n-1:
		return cpus[len(cpus)/2:]
	}
	return cpus
}

// startOn starts a program in machine i, on the machine's processors. It takes
// them from the thread that starts it.
func (b *bench) startOn(i int, cmd *lab.Cmd) error {
	cpus := b.cpus[i]
	if len(cpus) == 0 {
		return cmd.Start()
	}
	var set, old unix.CPUSet
	for _, c := range cpus {
		set.Set(c)
	}
	return b.hosts[i].Do(func() error {
		if err := unix.SchedGetaffinity(0, &old); err != nil {
			return os.NewSyscallError("sched_getaffinity", err)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return os.NewSyscallError("sched_setaffinity", err)
		}
		err := cmd.Cmd.Start()
		return errors.Join(err, os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &old)))
	})
}

// goEnv lets a Go program use as many threads as it would without a placement:
// one that waits in the kernel must not hold up the others.
func goEnv() []string {
	return append(os.Environ(), fmt.Sprintf("GOMAXPROCS=%d", runtime.NumCPU()))
}
