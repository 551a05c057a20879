// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The processors of a virtual machine move. While those of sender and receiver
// share a cache, one reads what the other wrote at 100 GB/s, here; when the
// hypervisor moves one of them away, at 40, for minutes, and what was tuned for
// one state is a different machine in the other: every path is slower, by factors
// of their own. Nothing in the machine says so, but a cache line's way from one
// processor to the other takes 45 ns or 185. So the lab times that way around
// each cycle of turns: cycles with far processors do not count beside others in
// their round, nor rounds with few others beside other rounds (see Report.value and
// Report.counted). Some machines stay in a state for minutes, on others a processor
// goes there and back several times a second.

const (
	// handOvers is how often a cache line goes there and back in one trial, and
	// trials of how many the best counts: what comes between makes some slower.
	handOvers = 100
	trials    = 20
	// farther is how much longer the way is when processors are called far: near
	// ones differ by a factor of two from one moment to the next.
	farther = 3
)

// ball is a cache line to itself; processors with pairs of lines fetch both.
type ball struct {
	_    [128]byte
	turn atomic.Uint32
	_    [128]byte
}

// distance gives the time that a cache line takes from one processor to another,
// in nanoseconds; 0 where there are no two to hand it over at the same time.
func distance(a, b int) (float64, error) {
	if a == b || runtime.GOMAXPROCS(0) < 2 {
		return 0, nil
	}
	var line ball
	best := math.Inf(1)
	serve := func() {
		for n := uint32(0); n < 2*handOvers*trials; {
			begun := time.Now()
			for range handOvers {
				line.turn.Store(n + 1)
				for n += 2; line.turn.Load() != n; {
				}
			}
			best = min(best, float64(time.Since(begun).Nanoseconds())/(2*handOvers))
		}
	}
	give := func() {
		for n := uint32(0); n < 2*handOvers*trials; n += 2 {
			for line.turn.Load() != n+1 {
			}
			line.turn.Store(n + 2)
		}
	}
	// Neither begins before both are where they belong: on the same processor,
	// each would wait for the scheduler.
	var wg sync.WaitGroup
	placed, start := make(chan error), make(chan bool)
	wg.Go(func() { onProcessor(a, placed, start, serve) })
	wg.Go(func() { onProcessor(b, placed, start, give) })
	err := errors.Join(<-placed, <-placed)
	start <- err == nil
	start <- err == nil
	wg.Wait()
	if err != nil {
		return 0, err
	}
	return best, nil
}

// onProcessor goes to a processor, says so or why not, waits, and plays there if
// it may.
func onProcessor(cpu int, placed chan<- error, start <-chan bool, play func()) {
	runtime.LockOSThread()
	var set, old unix.CPUSet
	set.Set(cpu)
	err := os.NewSyscallError("sched_getaffinity", unix.SchedGetaffinity(0, &old))
	if err == nil {
		err = os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &set))
	}
	placed <- err
	if <-start {
		play()
	}
	if unix.SchedSetaffinity(0, &old) == nil {
		runtime.UnlockOSThread() // else the thread ends with the goroutine
	}
}
