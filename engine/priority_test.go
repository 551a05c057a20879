// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// onThread runs fn on a thread of its own, which ends with fn.
func onThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good
		fn()
	}()
	<-done
}

func scheduled(t *testing.T) *unix.SchedAttr {
	t.Helper()
	a, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPriority(t *testing.T) {
	onThread(func() {
		var p priority
		// More than ordinary takes a right that the test may not have; less does not.
		if err := p.ask(7); err != nil {
			t.Error(err)
			return
		}
		for _, bulk := range []bool{false, true, false} {
			if err := p.set(bulk, false); err != nil {
				t.Error(err)
			}
			a, policy := scheduled(t), uint32(unix.SCHED_NORMAL)
			if bulk {
				policy = unix.SCHED_BATCH
			}
			if a.Policy != policy || a.Nice != 7 {
				t.Errorf("bulk %v: policy %d, nice %d", bulk, a.Policy, a.Nice)
			}
		}
	})
}

// TestPriorityUnderStrain asserts that a worker under strain has less of a
// priority than it asked for, that it has it again afterwards, and that nobody's
// gets higher so.
func TestPriorityUnderStrain(t *testing.T) {
	for _, nice := range []int{DefaultNice, 3} {
		onThread(func() {
			var p priority
			var refused *errPriority
			if err := p.ask(nice); errors.As(err, &refused) {
				t.Logf("not allowed here: %v", err)
				return
			} else if err != nil {
				t.Error(err)
			}
			for _, strain := range []bool{true, false, true} {
				if err := p.set(true, strain); err != nil {
					t.Error(err)
				}
				want := nice
				if strain {
					want = max(nice, strainNice)
				}
				if a := scheduled(t); int(a.Nice) != want {
					t.Errorf("nice %d, strain %v: it has %d, want %d", nice, strain, a.Nice, want)
				}
			}
		})
	}
}

func TestPriorityAsItIs(t *testing.T) {
	onThread(func() {
		before := scheduled(t)
		var p priority
		if err := p.ask(0); err != nil {
			t.Error(err)
		}
		if a := scheduled(t); a.Nice != before.Nice {
			t.Errorf("nice %d became %d", before.Nice, a.Nice)
		}
	})
}

// Without the right the thread works on as it is, and somebody is told.
func TestPriorityRefused(t *testing.T) {
	onThread(func() {
		var hdr = unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&hdr, &data[0]); err != nil {
			t.Error(err)
			return
		}
		data[0].Effective &^= 1 << unix.CAP_SYS_NICE
		if err := unix.Capset(&hdr, &data[0]); err != nil {
			t.Error(err)
			return
		}
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NICE, &limit); err != nil {
			t.Error(err)
			return
		}
		before := scheduled(t)
		// One step more than the limit on nice allows (20 is nice 0, 40 is -20).
		nice := 20 - int(limit.Cur) - 1
		if limit.Cur == 0 {
			nice = -1
		}
		if nice < -20 {
			t.Log("this process may use any nice value, so nothing is refused")
			return
		}
		var p priority
		err := p.ask(nice)
		var refused *errPriority
		if !errors.As(err, &refused) || !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "CAP_SYS_NICE") {
			t.Errorf("error %v", err)
		}
		if a := scheduled(t); a.Nice != before.Nice {
			t.Errorf("nice %d became %d", before.Nice, a.Nice)
		}
		if err := p.set(true, false); err != nil {
			t.Error(err)
		}
		if a := scheduled(t); a.Policy != unix.SCHED_BATCH || a.Nice != before.Nice {
			t.Errorf("policy %d, nice %d", a.Policy, a.Nice)
		}
	})
}
