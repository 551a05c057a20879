// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"kohaku/conf"
)

// model is the same thing done slowly: a list of everything that was ever given,
// looked through from the beginning each time, and subnets walked address by
// address.
type model struct {
	plan   conf.Plan
	ids    map[string]int
	used   map[string][]netip.Addr // absent: not told yet
	leases []*modelLease
}

type modelLease struct {
	id      ID
	runner  string
	addr    netip.Addr
	ttl     time.Duration
	end     time.Duration
	inUse   bool
	stopped bool
}

func (m *model) settle(now time.Duration) {
	for _, l := range m.leases {
		if !l.inUse && l.end <= now {
			l.stopped = true
		}
	}
}

func (m *model) live() (out []*modelLease) {
	for _, l := range m.leases {
		if !l.stopped {
			out = append(out, l)
		}
	}
	return out
}

// can is the addresses that may be given on a Runner now.
func (m *model) can(runner string) (out []netip.Addr) {
	id := m.ids[runner]
	subnet := m.plan.Subnet(id)
	var all []netip.Addr
	for a := subnet.Addr(); subnet.Contains(a); a = a.Next() {
		all = append(all, a)
	}
	for i, a := range all {
		if i == 0 || i == len(all)-1 || a == m.plan.Gateway(id) || a == m.plan.HostOn(id) || slices.Contains(m.used[runner], a) {
			continue
		}
		if slices.ContainsFunc(m.live(), func(l *modelLease) bool { return l.addr == a }) {
			continue
		}
		out = append(out, a)
	}
	return out
}

func kindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return 0
}

// Whatever is done in whatever order, over restarts and reboots, the store and the
// slow model agree: who has what, what is free, what is refused.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		plan := conf.MustParsePlan(rapid.SampledFrom([]string{"10.0.0.0/22/2/8", "10.128.0.0/20/2/10", "172.16.0.0/23/1/8"}).Draw(t, "plan"))
		names := []string{"node1", "node2", "node3"}[:plan.MaxRunners()]
		dir, err := tempDir(t)
		if err != nil {
			t.Fatal(err)
		}
		now := Instant{Boot: "a", At: time.Hour}
		clock := func() Instant { return now }
		s, _, err := Open(dir, clock)
		if err != nil {
			t.Fatal(err)
		}
		m := &model{plan: plan, ids: map[string]int{}, used: map[string][]netip.Addr{}}
		tokens := map[ID]string{}
		name := rapid.SampledFrom(names)
		// Few enough that they are met again.
		address := func(t *rapid.T) netip.Addr {
			id := rapid.IntRange(1, plan.MaxRunners()).Draw(t, "of")
			edge := []uint32{0, 1, 2, 3, 253, 254, 255}
			first := number(plan.Subnet(id).Addr())
			last := uint32(1)<<(32-plan.Subnet(id).Bits()) - 1
			return addr(first + rapid.SampledFrom(append(edge, last, last-1, last-2, last-3)).Draw(t, "offset"))
		}
		bind := func(t *rapid.T) {
			n := name.Draw(t, "runner")
			id := rapid.IntRange(1, plan.MaxRunners()).Draw(t, "id")
			for other, has := range m.ids {
				if has == id && other != n {
					delete(m.ids, other)
					delete(m.used, other)
				}
			}
			if m.ids[n] != id {
				delete(m.used, n)
			}
			m.ids[n] = id
			for _, l := range m.live() {
				inside := plan.Subnet(id).Contains(l.addr)
				if l.runner == n && !inside || l.runner != n && inside {
					l.stopped = true
				}
			}
			s.Bind(n, PoolOf(plan, id))
		}
		t.Repeat(map[string]func(*rapid.T){
			"bind": bind,
			"drop": func(t *rapid.T) {
				n := name.Draw(t, "runner")
				delete(m.ids, n)
				delete(m.used, n)
				for _, l := range m.live() {
					l.stopped = l.stopped || l.runner == n
				}
				s.Drop(n)
			},
			"used": func(t *rapid.T) {
				n := name.Draw(t, "runner")
				used := rapid.SliceOfNDistinct(rapid.Custom(address), 0, 6, rapid.ID).Draw(t, "used")
				slices.SortFunc(used, netip.Addr.Compare)
				s.SetUsed(n, used)
				m.settle(now.At)
				if m.ids[n] == 0 {
					return
				}
				pool := PoolOf(plan, m.ids[n])
				used = slices.DeleteFunc(used, func(a netip.Addr) bool { return !pool.Holds(a) })
				m.used[n] = used
				for _, l := range m.live() {
					if is := slices.Contains(used, l.addr); l.runner == n && is != l.inUse {
						l.inUse, l.end = is, now.At+l.ttl
					}
				}
			},
			"reserve": func(t *rapid.T) {
				q := Request{Runner: name.Draw(t, "runner"), TTL: time.Duration(rapid.IntRange(1, 100).Draw(t, "ttl")) * time.Second}
				if rapid.Bool().Draw(t, "given") {
					q.Addr = address(t)
				}
				m.settle(now.At)
				var can []netip.Addr
				want := Kind(0)
				if m.ids[q.Runner] == 0 {
					want = UnknownRunner
				} else if m.used[q.Runner] == nil {
					want = NotYet
				} else {
					can = m.can(q.Runner)
					if pool := PoolOf(plan, m.ids[q.Runner]); q.Addr.IsValid() && !pool.Holds(q.Addr) {
						want = BadRequest
					} else if q.Addr.IsValid() && !slices.Contains(can, q.Addr) || len(can) == 0 || len(m.live()) >= MaxPerRunner {
						want = Taken
					}
				}
				got, token, err := s.Reserve(q)
				if kindOf(err) != want || (err == nil) != (want == 0) {
					t.Fatalf("reserve %+v: %v, want kind %d", q, err, want)
				}
				if err != nil {
					return
				}
				if q.Addr.IsValid() && got.Addr != q.Addr || !slices.Contains(can, got.Addr) || got.Runner != q.Runner || got.Left != q.TTL {
					t.Fatalf("reserve %+v gave %+v", q, got)
				}
				m.leases = append(m.leases, &modelLease{id: got.ID, runner: q.Runner, addr: got.Addr, ttl: q.TTL, end: now.At + q.TTL})
				tokens[got.ID] = token
			},
			"release": func(t *rapid.T) {
				if len(m.leases) == 0 {
					return // nothing was reserved yet
				}
				l := rapid.SampledFrom(m.leases).Draw(t, "lease")
				m.settle(now.At)
				want := Kind(0)
				switch {
				case l.stopped:
					want = Gone
				case l.inUse:
					want = InUse
				}
				_, err := s.Release(tokens[l.id])
				if kindOf(err) != want || (err == nil) != (want == 0) {
					t.Fatalf("release %+v: %v, want kind %d", *l, err, want)
				}
				l.stopped = l.stopped || want == 0
			},
			"time": func(t *rapid.T) {
				now.At += time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second
			},
			"restart": func(t *rapid.T) {
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
				now.At += time.Duration(rapid.IntRange(0, 30).Draw(t, "down")) * time.Second
				var damage error
				if s, damage, err = Open(dir, clock); err != nil || damage != nil {
					t.Fatal(damage, err)
				}
				m.used = map[string][]netip.Addr{}
				m.settle(now.At)
				for n, id := range m.ids {
					s.Bind(n, PoolOf(plan, id))
				}
			},
			"": func(t *rapid.T) {
				m.settle(now.At)
				var want []string
				for _, l := range m.live() {
					left := l.end - now.At
					if l.inUse {
						left = l.ttl
					}
					want = append(want, fmt.Sprint(l.runner, " ", l.addr, " ", l.id, " ", l.inUse, " ", left))
				}
				var got []string
				for _, r := range s.List("") {
					got = append(got, fmt.Sprint(r.Runner, " ", r.Addr, " ", r.ID, " ", r.InUse, " ", r.Left))
				}
				slices.Sort(want)
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Fatalf("reservations\n%q, want\n%q", got, want)
				}
				for n := range m.used {
					can := m.can(n)
					free, err := s.Available(n, 1<<20)
					if err != nil || !slices.Equal(free, can) {
						t.Fatalf("available on %s: %d addresses (%v), want %d", n, len(free), err, len(can))
					}
					if i, err := s.Info(n); err != nil || i.Available != len(can) || i.Used != len(m.used[n]) {
						t.Fatalf("info of %s: %+v, %v; want %d available, %d used", n, i, err, len(can), len(m.used[n]))
					}
				}
			},
		})
	})
}

// tempDir is a directory for one run of a property.
func tempDir(t *rapid.T) (string, error) {
	dir, err := mkdirTemp()
	if err == nil {
		t.Cleanup(func() { removeAll(dir) })
	}
	return dir, err
}
