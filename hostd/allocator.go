// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// allocation is a runner's hold on an id.
type allocation struct {
	ID      int
	Name    string // canonical hostname
	Machine string // machine id; empty: see unclaimed
	Since   time.Time
	Heard   time.Time // last sign of life; zero: none since the Host started
}

// allocator hands out runner ids 1..max. It does no I/O and knows no clock: every
// call that depends on time takes it as an argument. Not safe for concurrent use.
//
// A runner is its name, guarded by its machine id. It keeps its id for as long as
// its allocation exists. New runners get the lowest free id; when all are taken,
// the inactive runner that was heard of the longest time ago makes room.
type allocator struct {
	max     int
	timeout time.Duration // silence after which a runner is inactive

	byID    map[int]*allocation
	byName  map[string]*allocation
	blocked map[int]bool // ids whose device name somebody else uses
}

func newAllocator(maxID int, timeout time.Duration) *allocator {
	return &allocator{
		max: maxID, timeout: timeout,
		byID: make(map[int]*allocation), byName: make(map[string]*allocation), blocked: make(map[int]bool),
	}
}

// ConflictError refuses a second machine with a name that is taken.
type ConflictError struct{ Name, Have, Got string }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("the name %q belongs to the machine %s; this is the machine %s", e.Name, e.Have, e.Got)
}

// FullError says that no id is left.
type FullError struct{ Max int }

func (e *FullError) Error() string {
	return fmt.Sprintf("No available runner IDs: all %d are taken and none of their runners is inactive", e.Max)
}

// restore enters an allocation that existed before the Host started.
func (a *allocator) restore(id int, name, machine string, now time.Time) error {
	if id < 1 || id > a.max {
		return fmt.Errorf("runner id %d is outside 1..%d", id, a.max)
	}
	if have := a.byID[id]; have != nil {
		return fmt.Errorf("runner id %d already belongs to %q", id, have.Name)
	}
	if have := a.byName[name]; have != nil {
		return fmt.Errorf("runner %q already has id %d", name, have.ID)
	}
	a.add(&allocation{ID: id, Name: name, Machine: machine, Since: now})
	return nil
}

// register finds or makes the runner's allocation and counts as a sign of life. A
// new runner gets the wished id when it is free, 0 being no wish. When somebody
// had to make room, he is returned as recycled.
func (a *allocator) register(name, machine string, wish int, now time.Time) (got *allocation, isNew bool, recycled *allocation, err error) {
	if have := a.byName[name]; have != nil {
		if have.Machine != machine {
			return nil, false, nil, &ConflictError{Name: name, Have: have.Machine, Got: machine}
		}
		have.Heard = now
		return have, false, nil, nil
	}
	id := 0
	if wish > 0 && a.free(wish) {
		id = wish
	}
	for n := 1; id == 0 && n <= a.max; n++ {
		if a.free(n) {
			id = n
		}
	}
	if id == 0 {
		for _, old := range a.inactive(now) {
			if a.blocked[old.ID] || a.unheard(old, now) {
				continue
			}
			recycled, id = old, old.ID
			a.remove(old)
			break
		}
	}
	if id == 0 {
		return nil, false, nil, &FullError{Max: a.max}
	}
	got = &allocation{ID: id, Name: name, Machine: machine, Since: now, Heard: now}
	a.add(got)
	return got, true, recycled, nil
}

// heartbeat notes a sign of life. A nil allocation means that the name is unknown.
func (a *allocator) heartbeat(name, machine string, now time.Time) (*allocation, error) {
	have := a.byName[name]
	if have == nil {
		return nil, nil
	}
	if have.Machine != machine {
		return nil, &ConflictError{Name: name, Have: have.Machine, Got: machine}
	}
	have.Heard = now
	return have, nil
}

// active reports whether the runner gave a sign of life within the timeout.
func (a *allocator) active(al *allocation, now time.Time) bool {
	return !al.Heard.IsZero() && now.Sub(al.Heard) <= a.timeout
}

// unheard reports whether the runner, known from before the Host started, has not
// yet had the time to make itself heard. It is inactive, but may well be alive. So
// may one that is not claimed, which a kernel's tunnel leads to.
func (a *allocator) unheard(al *allocation, now time.Time) bool {
	return al.unclaimed() || al.Heard.IsZero() && now.Sub(al.Since) <= a.timeout
}

// inactive lists the inactive allocations, the least recently heard of first.
func (a *allocator) inactive(now time.Time) []*allocation {
	all := slices.DeleteFunc(a.all(), func(al *allocation) bool { return a.active(al, now) })
	slices.SortStableFunc(all, func(x, y *allocation) int { return x.Heard.Compare(y.Heard) })
	return all
}

// all lists the allocations by id.
func (a *allocator) all() []*allocation {
	all := make([]*allocation, 0, len(a.byID))
	for _, al := range a.byID {
		all = append(all, al)
	}
	slices.SortFunc(all, func(x, y *allocation) int { return cmp.Compare(x.ID, y.ID) })
	return all
}

// available counts the free ids.
func (a *allocator) available() int {
	n := a.max - len(a.byID)
	for id := range a.blocked {
		if a.byID[id] == nil && id <= a.max {
			n--
		}
	}
	return n
}

// block replaces the set of ids that are not to be handed out.
func (a *allocator) block(ids map[int]bool) { a.blocked = ids }

func (a *allocator) free(id int) bool {
	return id <= a.max && a.byID[id] == nil && !a.blocked[id]
}

func (a *allocator) add(al *allocation) {
	a.byID[al.ID], a.byName[al.Name] = al, al
}

func (a *allocator) remove(al *allocation) {
	delete(a.byID, al.ID)
	delete(a.byName, al.Name)
}
