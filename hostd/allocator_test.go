// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// slowAllocator says in the plainest way what the allocator is to do: a list that
// is searched from its beginning each time.
type slowAllocator struct {
	max     int
	timeout time.Duration
	list    []allocation
	blocked map[int]bool
}

func (s *slowAllocator) find(match func(allocation) bool) int {
	return slices.IndexFunc(s.list, match)
}

func (s *slowAllocator) taken(id int) bool {
	return s.find(func(a allocation) bool { return a.ID == id }) >= 0
}

func (s *slowAllocator) activeAt(a allocation, now time.Time) bool {
	return !a.Heard.IsZero() && !now.After(a.Heard.Add(s.timeout))
}

func (s *slowAllocator) register(name, machine string, wish int, now time.Time) (id, recycled int, err error) {
	if i := s.find(func(a allocation) bool { return a.Name == name }); i >= 0 {
		if s.list[i].Machine != machine {
			return 0, 0, &ConflictError{}
		}
		s.list[i].Heard = now
		return s.list[i].ID, 0, nil
	}
	var candidates []int
	for n := 1; n <= s.max; n++ {
		if !s.taken(n) && !s.blocked[n] {
			candidates = append(candidates, n)
		}
	}
	switch {
	case slices.Contains(candidates, wish):
		id = wish
	case len(candidates) > 0:
		id = candidates[0]
	default:
		best := -1
		for i, a := range s.list {
			known := a.Heard
			if known.IsZero() {
				known = a.Since
			}
			if s.blocked[a.ID] || !now.After(known.Add(s.timeout)) {
				continue
			}
			if best < 0 || a.Heard.Before(s.list[best].Heard) || a.Heard.Equal(s.list[best].Heard) && a.ID < s.list[best].ID {
				best = i
			}
		}
		if best < 0 {
			return 0, 0, &FullError{}
		}
		id = s.list[best].ID
		recycled = id
		s.list = slices.Delete(s.list, best, best+1)
	}
	s.list = append(s.list, allocation{ID: id, Name: name, Machine: machine, Since: now, Heard: now})
	return id, recycled, nil
}

func TestAllocatorAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		maxID := rapid.IntRange(1, 6).Draw(t, "max")
		timeout := 10 * time.Second
		now := time.Unix(1_000_000, 0)
		fast := newAllocator(maxID, timeout)
		slow := &slowAllocator{max: maxID, timeout: timeout}
		name := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("node", rapid.IntRange(1, 9).Draw(t, "node")) })
		machine := rapid.SampledFrom([]string{"m1", "m1", "m1", "m2"})

		t.Repeat(map[string]func(*rapid.T){
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 15).Draw(t, "seconds")) * time.Second)
			},
			"register": func(t *rapid.T) {
				n, m, wish := name.Draw(t, "name"), machine.Draw(t, "machine"), rapid.IntRange(0, maxID+1).Draw(t, "wish")
				got, isNew, recycled, err := fast.register(n, m, wish, now)
				id, wantRecycled, wantErr := slow.register(n, m, wish, now)
				if fmt.Sprintf("%T", err) != fmt.Sprintf("%T", wantErr) {
					t.Fatalf("register: %v, the model says %v", err, wantErr)
				}
				if err != nil {
					return
				}
				if got.ID != id || got.Name != n || got.Machine != m {
					t.Fatalf("register(%s) = %+v, the model says id %d", n, got, id)
				}
				if (recycled != nil) != (wantRecycled != 0) || recycled != nil && (recycled.ID != wantRecycled || !isNew) {
					t.Fatalf("recycled %+v, the model says %d", recycled, wantRecycled)
				}
			},
			"heartbeat": func(t *rapid.T) {
				n, m := name.Draw(t, "name"), machine.Draw(t, "machine")
				got, err := fast.heartbeat(n, m, now)
				i := slow.find(func(a allocation) bool { return a.Name == n })
				switch {
				case i < 0:
					if got != nil || err != nil {
						t.Fatalf("heartbeat of an unknown %s: %+v, %v", n, got, err)
					}
				case slow.list[i].Machine != m:
					if err == nil {
						t.Fatalf("heartbeat of another machine as %s was taken", n)
					}
				default:
					slow.list[i].Heard = now
				}
			},
			"restore": func(t *rapid.T) {
				n, id := name.Draw(t, "name"), rapid.IntRange(0, maxID+1).Draw(t, "id")
				err := fast.restore(id, n, "m1", now)
				bad := id < 1 || id > maxID || slow.taken(id) || slow.find(func(a allocation) bool { return a.Name == n }) >= 0
				if (err != nil) != bad {
					t.Fatalf("restore(%d, %s): %v", id, n, err)
				}
				if err == nil {
					slow.list = append(slow.list, allocation{ID: id, Name: n, Machine: "m1", Since: now})
				}
			},
			"release": func(t *rapid.T) {
				n := name.Draw(t, "name")
				if al := fast.byName[n]; al != nil {
					fast.remove(al)
				}
				slow.list = slices.DeleteFunc(slow.list, func(a allocation) bool { return a.Name == n })
			},
			"block": func(t *rapid.T) {
				id := rapid.IntRange(0, maxID).Draw(t, "id")
				slow.blocked = map[int]bool{id: true}
				fast.block(map[int]bool{id: true})
			},
			"": func(t *rapid.T) {
				slices.SortFunc(slow.list, func(a, b allocation) int { return a.ID - b.ID })
				all := fast.all()
				if len(all) != len(slow.list) || len(fast.byName) != len(slow.list) {
					t.Fatalf("%d allocations, the model has %d", len(all), len(slow.list))
				}
				for i, al := range all {
					if *al != slow.list[i] {
						t.Fatalf("allocation %+v, the model has %+v", *al, slow.list[i])
					}
					if fast.active(al, now) != slow.activeAt(*al, now) {
						t.Fatalf("active(%+v) = %v", *al, fast.active(al, now))
					}
				}
			},
		})
	})
}

func TestAllocatorMessages(t *testing.T) {
	now := time.Unix(0, 0).Add(time.Hour)
	a := newAllocator(2, time.Minute)
	for _, name := range []string{"a", "b"} {
		if _, _, _, err := a.register(name, "m-"+name, 0, now); err != nil {
			t.Fatal(err)
		}
	}
	_, _, _, err := a.register("c", "m-c", 0, now)
	if _, ok := errors.AsType[*FullError](err); !ok || !strings.Contains(err.Error(), "No available runner IDs") {
		t.Errorf("error %v", err)
	}
	_, _, _, err = a.register("a", "m-x", 0, now)
	if err == nil || !strings.Contains(err.Error(), "m-a") || !strings.Contains(err.Error(), "m-x") {
		t.Errorf("error %v does not name both machines", err)
	}
}
