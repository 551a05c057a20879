// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"kohaku/internal/api"
)

// Request is what somebody wants to have.
type Request struct {
	Runner string
	Addr   netip.Addr    // zero: any
	TTL    time.Duration // 0: DefaultTTL
	Name   string        // what for; may be empty
}

// Reservation is one that holds now.
type Reservation struct {
	ID     ID
	Runner string
	Addr   netip.Addr
	Name   string
	TTL    time.Duration
	// InUse says that a container has the address. Left then is TTL, and stands.
	InUse bool
	Left  time.Duration
}

// Info sums up a Runner's addresses.
type Info struct {
	Pool      Pool
	Reserved  int // reserved, and not in use
	Used      int // containers have them
	Available int // the rest
	// Known is false until the Runner has said which addresses are in use; until
	// then none can be reserved.
	Known bool
}

// lease is a reservation as it is kept.
type lease struct {
	id     ID
	runner string
	addr   netip.Addr
	name   string
	ttl    time.Duration
	inUse  bool
	end    time.Duration // by the clock; counts while not in use
}

func (l *lease) left(now time.Duration) time.Duration {
	if l.inUse {
		return l.ttl
	}
	return l.end - now
}

func (l *lease) public(now time.Duration) Reservation {
	return Reservation{ID: l.id, Runner: l.runner, Addr: l.addr, Name: l.name, TTL: l.ttl, InUse: l.inUse, Left: l.left(now)}
}

// runner is what is known of a Runner.
type runner struct {
	pool  Pool
	known bool // used is what the Runner said
	used  map[netip.Addr]bool
	// most: beyond used there may be more, above the highest of them.
	most   bool
	top    netip.Addr // the highest of used
	cursor uint32     // the next address to give, going down
}

// table is the logic without clock, file and lock: every call that depends on time
// takes it as an argument, and none does I/O.
type table struct {
	leases  map[netip.Addr]*lease // the lease of an address; never two
	runners map[string]*runner
	dirty   bool // something has changed since this was last cleared
}

func newTable() *table {
	return &table{leases: make(map[netip.Addr]*lease), runners: make(map[string]*runner)}
}

// bind says that a Runner has this pool. Leases that do not fit any more, its own
// on other addresses and those of others on these, end.
func (t *table) bind(name string, pool Pool) {
	if r := t.runners[name]; r == nil || r.pool != pool {
		t.runners[name] = &runner{pool: pool, cursor: pool.last}
	}
	for n, r := range t.runners {
		if n != name && r.pool == pool {
			delete(t.runners, n)
		}
	}
	t.end(func(l *lease) bool { return (l.runner == name) != pool.Holds(l.addr) })
}

// rename gives a Runner another name, which no other has.
func (t *table) rename(old, new string) {
	if r := t.runners[old]; r != nil {
		delete(t.runners, old)
		t.runners[new] = r
	}
	for _, l := range t.leases {
		if l.runner == old {
			l.runner = new
			t.dirty = true
		}
	}
}

// drop says that a Runner is no more. Its leases end.
func (t *table) drop(name string) {
	delete(t.runners, name)
	t.end(func(l *lease) bool { return l.runner == name })
}

func (t *table) end(which func(*lease) bool) {
	before := len(t.leases)
	maps.DeleteFunc(t.leases, func(_ netip.Addr, l *lease) bool { return which(l) })
	t.dirty = t.dirty || len(t.leases) != before
}

// expire ends the leases whose time is over. That needs no writing: their end
// stands in the file already.
func (t *table) expire(now time.Duration) {
	maps.DeleteFunc(t.leases, func(_ netip.Addr, l *lease) bool { return l.left(now) <= 0 })
}

// setUsed notes which addresses a Runner's containers have. A Runner that is not
// bound is not noted.
func (t *table) setUsed(name string, used []netip.Addr, now time.Duration) {
	t.expire(now)
	r := t.runners[name]
	if r == nil {
		return
	}
	r.known, r.used, r.top = true, make(map[netip.Addr]bool, len(used)), addr(r.pool.first)
	for _, a := range used {
		if r.pool.Holds(a) {
			r.used[a] = true
			if r.top.Less(a) {
				r.top = a
			}
		}
	}
	r.most = len(used) >= api.MaxUsedAddresses
	for _, l := range t.leases {
		if l.runner != name || l.inUse == r.used[l.addr] {
			continue
		}
		l.inUse = r.used[l.addr]
		l.end = now + l.ttl
		t.dirty = true
	}
}

// find gives a Runner, or the refusal.
func (t *table) find(name string) (*runner, error) {
	if r := t.runners[name]; r != nil {
		return r, nil
	}
	return nil, &Error{Kind: UnknownRunner, Text: fmt.Sprintf("the Host has no runner %q", name), Hint: "`kohaku node overlay` lists them"}
}

// ready gives a Runner whose addresses are known, or the refusal.
func (t *table) ready(name string) (*runner, error) {
	r, err := t.find(name)
	if err == nil && !r.known {
		err = &Error{Kind: NotYet, Text: fmt.Sprintf("runner %q has not yet said which addresses its containers have", name),
			Hint: "it says so with its next heartbeat: try again in some seconds; if that does not help, see whether it is active: kohaku node overlay"}
	}
	return r, err
}

// free says why an address of the pool cannot be given.
func (t *table) free(r *runner, a netip.Addr, now time.Duration) error {
	if l := t.leases[a]; l != nil {
		what := "reserved for another " + l.left(now).Round(time.Second).String()
		if l.inUse {
			what = "reserved, and in use"
		}
		if l.name != "" {
			what += ", for " + l.name
		}
		return fmt.Errorf("%s is %s", a, what)
	}
	if r.used[a] {
		return fmt.Errorf("%s is in use by a container", a)
	}
	if r.most && r.top.Less(a) {
		return fmt.Errorf("whether %s is in use is not known: the Runner has more containers than it can report", a)
	}
	return nil
}

// reserve makes a lease.
func (t *table) reserve(q Request, id ID, now time.Duration) (*lease, error) {
	t.expire(now)
	if q.TTL == 0 {
		q.TTL = DefaultTTL
	}
	if q.TTL < MinTTL || q.TTL > MaxTTL {
		return nil, &Error{Kind: BadRequest, Text: fmt.Sprintf("a time to live of %s is outside %s..%s", q.TTL, MinTTL, MaxTTL)}
	}
	if err := CheckName(q.Name); err != nil {
		return nil, &Error{Kind: BadRequest, Text: err.Error()}
	}
	r, err := t.ready(q.Runner)
	if err != nil {
		return nil, err
	}
	if q.Addr.IsValid() {
		if err := r.pool.check(q.Addr); err != nil {
			return nil, &Error{Kind: BadRequest, Text: "no container can have that address: " + err.Error(),
				Hint: fmt.Sprintf("on %s choose from %s to %s, or leave the choice to the Host", q.Runner, r.pool.First(), r.pool.Last())}
		}
		if err := t.free(r, q.Addr, now); err != nil {
			return nil, &Error{Kind: Taken, Text: err.Error(), Hint: "kohaku node ip-available " + q.Runner + " lists free ones"}
		}
	}
	if err := t.room(q.Runner); err != nil {
		return nil, err
	}
	if !q.Addr.IsValid() {
		if q.Addr, err = t.choose(r, q.Runner, now); err != nil {
			return nil, err
		}
	}
	l := &lease{id: id, runner: q.Runner, addr: q.Addr, name: q.Name, ttl: q.TTL, end: now + q.TTL}
	t.leases[l.addr] = l
	return l, nil
}

// room refuses what would be one reservation too many.
func (t *table) room(name string) error {
	mine := 0
	for _, l := range t.leases {
		if l.runner == name {
			mine++
		}
	}
	full := ""
	switch {
	case mine >= MaxPerRunner:
		full = fmt.Sprintf("runner %q has %d reservations, and cannot have more", name, mine)
	case len(t.leases) >= MaxTotal:
		full = fmt.Sprintf("the Host keeps %d reservations, and cannot keep more", len(t.leases))
	default:
		return nil
	}
	return &Error{Kind: Taken, Text: full, Hint: "release some (kohaku node ip-list shows them), or wait until their time is over"}
}

// choose takes the next free address going down, beginning at the top: Docker's own
// choices go up, and an address that was just given back is not given at once.
func (t *table) choose(r *runner, name string, now time.Duration) (netip.Addr, error) {
	// More addresses cannot be taken than there are leases and used ones, and four
	// are nobody's; so the search is short, however large the subnet. With more
	// containers than are reported, all above the highest are out of reach.
	if r.most && number(r.top) < r.cursor {
		r.cursor = number(r.top)
	}
	for range min(len(t.leases)+len(r.used)+4, r.pool.Size()+4) + 1 {
		if r.cursor <= r.pool.first {
			r.cursor = r.pool.last
			if r.most {
				r.cursor = number(r.top)
			}
		}
		r.cursor--
		if a := addr(r.cursor); r.pool.Holds(a) && t.free(r, a, now) == nil {
			return a, nil
		}
	}
	return netip.Addr{}, &Error{Kind: Taken, Text: fmt.Sprintf("no address is left on runner %q: all %d of %s are reserved or in use", name, r.pool.Size(), r.pool.subnet),
		Hint: "kohaku node ip-list shows the reservations; kohaku node ip-info " + name + " sums up"}
}

// release ends the lease with that id, which must not be in use.
func (t *table) release(c claims, now time.Duration, wall time.Time) (*lease, error) {
	t.expire(now)
	l := t.leases[c.Addr]
	if l == nil || l.id != c.ID {
		return nil, c.ended(wall)
	}
	if l.inUse {
		return nil, &Error{Kind: InUse, Text: fmt.Sprintf("%s is in use by a container on %s", l.addr, l.runner),
			Hint: "stop the container first; the reservation then ends by itself after " + l.ttl.String() + ", or is released at once with the token"}
	}
	delete(t.leases, l.addr)
	return l, nil
}

// list gives the reservations of one Runner, or of all with "", by Runner and
// address.
func (t *table) list(name string, now time.Duration) []Reservation {
	t.expire(now)
	out := []Reservation{}
	for _, l := range t.leases {
		if name == "" || l.runner == name {
			out = append(out, l.public(now))
		}
	}
	slices.SortFunc(out, func(a, b Reservation) int {
		return cmp.Or(cmp.Compare(a.Runner, b.Runner), a.Addr.Compare(b.Addr))
	})
	return out
}

// available gives the lowest free addresses of a Runner, at most limit.
func (t *table) available(name string, limit int, now time.Duration) ([]netip.Addr, error) {
	t.expire(now)
	r, err := t.ready(name)
	if err != nil {
		return nil, err
	}
	out := []netip.Addr{}
	for n := r.pool.first; n != r.pool.last && len(out) < limit; n++ {
		a := addr(n)
		if r.most && r.top.Less(a) {
			break
		}
		if r.pool.Holds(a) && t.free(r, a, now) == nil {
			out = append(out, a)
		}
	}
	return out, nil
}

// info sums up a Runner's addresses.
func (t *table) info(name string, now time.Duration) (Info, error) {
	t.expire(now)
	r, err := t.find(name)
	if err != nil {
		return Info{}, err
	}
	i := Info{Pool: r.pool, Used: len(r.used), Known: r.known}
	for _, l := range t.leases {
		if l.runner == name && !r.used[l.addr] {
			i.Reserved++
		}
	}
	i.Available = r.pool.Size() - i.Used - i.Reserved
	return i, nil
}

// CheckName refuses a name that no container could have: letters, digits, '_', '.'
// and '-', beginning with a letter or digit, at most MaxName. Empty is no name.
func CheckName(s string) error {
	if len(s) > MaxName {
		return fmt.Errorf("a name of %d bytes, at most %d are allowed", len(s), MaxName)
	}
	for i := range len(s) {
		c := s[i]
		word := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !word && (i == 0 || c != '_' && c != '.' && c != '-') {
			return fmt.Errorf("the name %q is none that a container could have: letters, digits, '_', '.' and '-', beginning with a letter or digit", s)
		}
	}
	return nil
}
