// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// The kernel's driver does its work in software interrupts, before any thread. A
// worker is a thread among others: beside programs that compute without a pause
// its turn comes after milliseconds, and the program that it delivers to, once
// woken, takes the processor from it after every frame. So workers have a
// priority above ordinary threads, and ask for short turns, which lets them
// interrupt others at once (since Linux 6.12; kernel/sched/fair.c,
// do_preempt_short).
//
// Under bulk that would be wrong on the sending side: a worker that interrupts
// the sender at each frame never finds two. There, SCHED_BATCH makes it wait until
// the sender pauses or its turn is over, and then find much to do at once.
//
// And a worker for which frames wait leaves those without a priority what it does
// not need: next to none, at nice -20 a ninetieth. The program that reads what is
// delivered then loses what does not fit its socket, or comes to it after 20 ms,
// with a window of megabytes. So under strain workers have a priority that leaves
// it a quarter.

// DefaultNice puts workers before everything else, as the kernel's driver is.
const DefaultNice = -20

// strainNice is what a worker under strain has, where it had more: three times the
// share of an ordinary thread.
const strainNice = -5

// workerTurn is the length of turn that a worker asks for: the shortest there is.
const workerTurn = 100_000 // ns

// errPriority says what it means that a priority was refused.
type errPriority struct {
	nice int
	err  error
}

func (e *errPriority) Error() string {
	return fmt.Sprintf("give the threads that carry frames nice %d: %v; without it frames wait for programs that compute, "+
		"milliseconds each on a busy machine: allow it by CAP_SYS_NICE or RLIMIT_NICE (LimitNICE= in a systemd unit)", e.nice, e.err)
}

func (e *errPriority) Unwrap() error { return e.err }

// A priority is that of the thread that calls its methods. The zero value leaves
// it nice as it is.
type priority struct {
	nice int32 // in force; 0: as the process had it
}

// ask gives the thread what workers have at first. When nice is refused the rest
// is done all the same, and the error is an *errPriority.
func (p *priority) ask(nice int) error {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		return fmt.Errorf("sched_getattr: %w", err)
	}
	p.nice = attr.Nice
	if nice == 0 {
		return p.set(false, false)
	}
	p.nice = int32(nice)
	if err = p.set(false, false); err == nil {
		return nil
	}
	p.nice = attr.Nice
	_ = p.set(false, false) // shorter turns need no right, but a filter of system calls may refuse them
	return &errPriority{nice, err}
}

// set makes the thread one that carries bulk, or one that does not, and one under
// strain, or not.
func (p *priority) set(bulk, strain bool) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: p.nice, Runtime: workerTurn}
	if strain {
		attr.Nice = max(attr.Nice, strainNice)
	}
	if bulk {
		attr.Policy = unix.SCHED_BATCH
	}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("sched_setattr: %w", err)
	}
	return nil
}

// notePriority tells of a refused priority, once for all workers.
func (e *Engine) notePriority(err error) {
	if !e.ordinary.Swap(true) {
		e.log.Warn("the threads that carry frames have no priority over others", "error", err)
	}
}
