// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"kohaku/conf"
	"kohaku/internal/api"
)

func mkdirTemp() (string, error) { return os.MkdirTemp("", "reserve") }
func removeAll(dir string)       { _ = os.RemoveAll(dir) }

var plan = conf.MustParsePlan("10.0.0.0/8/8/16")

// hand is a clock that only the test moves.
type hand struct{ now Instant }

func (h *hand) clock() Instant { return h.now }

func newStore(t *testing.T, dir string, clock Clock) *Store {
	t.Helper()
	s, damage, err := Open(dir, clock)
	if err != nil || damage != nil {
		t.Fatal(err, damage)
	}
	return s
}

// ready is a store with node1, which uses nothing.
func ready(t *testing.T) (*Store, *hand, string) {
	t.Helper()
	h := &hand{Instant{"boot", time.Hour}}
	dir := t.TempDir()
	s := newStore(t, dir, h.clock)
	s.Bind("node1", PoolOf(plan, 1))
	s.SetUsed("node1", nil)
	return s, h, dir
}

func mustReserve(t *testing.T, s *Store, q Request) (Reservation, string) {
	t.Helper()
	r, token, err := s.Reserve(q)
	if err != nil {
		t.Fatal(err)
	}
	return r, token
}

// refused asserts a refusal's kind and words.
func refused(t *testing.T, err error, kind Kind, words ...string) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != kind {
		t.Fatalf("error %v, want one of kind %d", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(e.Text+" "+e.Hint, w) {
			t.Errorf("%q (%q) does not say %q", e.Text, e.Hint, w)
		}
	}
}

// Of every plan the network's, the gateway's, the Host's and the broadcast address
// are never given, and all others are.
func TestPool(t *testing.T) {
	for _, c := range []struct {
		plan        string
		id          int
		never       []string
		first, last string
		size        int
	}{
		{"10.0.0.0/8/8/16", 1, []string{"10.1.0.0", "10.1.0.1", "10.1.0.254", "10.1.255.255", "10.2.0.2", "10.0.0.1"}, "10.1.0.2", "10.1.255.254", 65532},
		{"10.128.0.0/12/6/14", 1, []string{"10.128.64.0", "10.128.64.1", "10.128.64.254", "10.128.127.255"}, "10.128.64.2", "10.128.127.254", 16380},
		{"192.168.0.0/16/8/8", 7, []string{"192.168.7.0", "192.168.7.1", "192.168.7.254", "192.168.7.255"}, "192.168.7.2", "192.168.7.253", 252},
	} {
		pool := PoolOf(conf.MustParsePlan(c.plan), c.id)
		for _, a := range c.never {
			if pool.Holds(netip.MustParseAddr(a)) {
				t.Errorf("%s: %s can be given", c.plan, a)
			}
		}
		if pool.First().String() != c.first || pool.Last().String() != c.last || pool.Size() != c.size {
			t.Errorf("%s: %s to %s, %d addresses", c.plan, pool.First(), pool.Last(), pool.Size())
		}
		n := 0
		for a := pool.Subnet().Addr(); pool.Subnet().Contains(a); a = a.Next() {
			if pool.Holds(a) {
				n++
			}
		}
		if n != c.size {
			t.Errorf("%s: %d addresses are held, want %d", c.plan, n, c.size)
		}
	}
	if (Pool{}).Size() != 0 || (Pool{}).Holds(netip.MustParseAddr("0.0.0.0")) {
		t.Error("the zero Pool holds addresses")
	}
}

// A whole small subnet is given away, each address once, and then no more.
func TestAllAddresses(t *testing.T) {
	h := &hand{Instant{"boot", 0}}
	small := conf.MustParsePlan("192.168.0.0/16/8/8")
	s := newStore(t, t.TempDir(), h.clock)
	s.Bind("node1", PoolOf(small, 1))
	s.SetUsed("node1", []netip.Addr{netip.MustParseAddr("192.168.1.9")})
	seen := map[netip.Addr]bool{}
	for i := range 251 {
		r, _ := mustReserve(t, s, Request{Runner: "node1"})
		if i == 0 && r.Addr.String() != "192.168.1.253" {
			t.Errorf("the first address given is %s, want the highest", r.Addr)
		}
		if o := r.Addr.As4()[3]; seen[r.Addr] || o == 0 || o == 1 || o == 9 || o >= 254 {
			t.Errorf("%s was given", r.Addr)
		}
		seen[r.Addr] = true
	}
	_, _, err := s.Reserve(Request{Runner: "node1"})
	refused(t, err, Taken, "no address is left", "192.168.1.0/24", "ip-list")
	if i, err := s.Info("node1"); err != nil || i.Available != 0 || i.Reserved != 251 || i.Used != 1 {
		t.Errorf("info %+v, %v", i, err)
	}
}

// Asked at once, no address is given twice.
func TestAtOnce(t *testing.T) {
	s, _, _ := ready(t)
	var mu sync.Mutex
	seen := map[netip.Addr]int{}
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			q := Request{Runner: "node1"}
			if i%2 == 0 {
				q.Addr = netip.MustParseAddr("10.1.7.7")
			}
			if r, _, err := s.Reserve(q); err == nil {
				mu.Lock()
				seen[r.Addr]++
				mu.Unlock()
			} else if kindOf(err) != Taken {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if len(seen) != 17 || len(s.List("")) != 17 {
		t.Errorf("%d addresses were given to 32, 16 of whom wanted the same; listed are %d", len(seen), len(s.List("")))
	}
	for a, n := range seen {
		if n != 1 {
			t.Errorf("%s was given %d times", a, n)
		}
	}
}

func TestRefusals(t *testing.T) {
	s, _, _ := ready(t)
	s.Bind("node2", PoolOf(plan, 2))
	mustReserve(t, s, Request{Runner: "node1", Addr: netip.MustParseAddr("10.1.0.9"), Name: "web"})
	s.SetUsed("node1", []netip.Addr{netip.MustParseAddr("10.1.0.7")})
	for _, c := range []struct {
		q     Request
		kind  Kind
		words []string
	}{
		{Request{Runner: "node9"}, UnknownRunner, []string{`no runner "node9"`, "kohaku node overlay"}},
		{Request{Runner: "node2"}, NotYet, []string{"has not yet said", "heartbeat"}},
		{Request{Runner: "node1", TTL: MinTTL - 1}, BadRequest, []string{"1s", "24h"}},
		{Request{Runner: "node1", TTL: MaxTTL + 1}, BadRequest, []string{"24h"}},
		{Request{Runner: "node1", TTL: -1}, BadRequest, nil},
		{Request{Runner: "node1", Name: "a b"}, BadRequest, []string{"letters"}},
		{Request{Runner: "node1", Name: strings.Repeat("a", MaxName+1)}, BadRequest, []string{"65 bytes"}},
		{Request{Runner: "node1", Addr: netip.MustParseAddr("10.1.0.0")}, BadRequest, []string{"network", "10.1.0.2"}},
		{Request{Runner: "node1", Addr: netip.MustParseAddr("10.1.0.1")}, BadRequest, []string{"gateway"}},
		{Request{Runner: "node1", Addr: netip.MustParseAddr("10.1.0.254")}, BadRequest, []string{"Host's"}},
		{Request{Runner: "node1", Addr: netip.MustParseAddr("10.1.255.255")}, BadRequest, []string{"broadcast"}},
		{Request{Runner: "node1", Addr: netip.MustParseAddr("10.2.0.9")}, BadRequest, []string{"not in the subnet 10.1.0.0/16"}},
		{Request{Runner: "node1", Addr: netip.MustParseAddr("fd00::1")}, BadRequest, []string{"not in the subnet"}},
		{Request{Runner: "node1", Addr: netip.MustParseAddr("10.1.0.9")}, Taken, []string{"reserved for another 5m0s, for web"}},
		{Request{Runner: "node1", Addr: netip.MustParseAddr("10.1.0.7")}, Taken, []string{"in use by a container", "ip-available node1"}},
	} {
		before := len(s.List(""))
		_, token, err := s.Reserve(c.q)
		refused(t, err, c.kind, c.words...)
		if token != "" || len(s.List("")) != before {
			t.Errorf("%+v changed something", c.q)
		}
	}
}

func TestBounds(t *testing.T) {
	s, _, _ := ready(t)
	for range MaxPerRunner {
		if _, err := s.table.reserve(Request{Runner: "node1"}, newID(), s.clock().At); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := s.Reserve(Request{Runner: "node1"})
	refused(t, err, Taken, `runner "node1" has 256 reservations`, "ip-list")
	for i := 2; len(s.table.leases) < MaxTotal; i++ {
		name := fmt.Sprint("node", i)
		s.Bind(name, PoolOf(plan, i))
		s.SetUsed(name, nil)
		for range MaxPerRunner {
			if _, err := s.table.reserve(Request{Runner: name, Name: strings.Repeat("n", MaxName)}, newID(), s.clock().At); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Bind("last", PoolOf(plan, 200))
	s.SetUsed("last", nil)
	_, _, err = s.Reserve(Request{Runner: "last"})
	refused(t, err, Taken, "the Host keeps 4096 reservations")
	if n := len(encode(s.key, s.table.leases, s.clock())); n > maxFile/2 {
		t.Errorf("the file of all reservations has %d bytes, at most %d are read", n, maxFile)
	}
}

// A Runner with more containers than it can report: what is above the highest
// reported may be in use, and is not given.
func TestMoreContainersThanReported(t *testing.T) {
	s, _, _ := ready(t)
	var used []netip.Addr
	for a := netip.MustParseAddr("10.1.0.3"); len(used) < api.MaxUsedAddresses; a = a.Next() {
		used = append(used, a)
	}
	s.SetUsed("node1", used)
	r, _ := mustReserve(t, s, Request{Runner: "node1"})
	if r.Addr.String() != "10.1.0.2" {
		t.Errorf("%s was given, the only address known to be free is 10.1.0.2", r.Addr)
	}
	_, _, err := s.Reserve(Request{Runner: "node1", Addr: netip.MustParseAddr("10.1.200.1")})
	refused(t, err, Taken, "not known")
	if free, err := s.Available("node1", 10); err != nil || len(free) != 0 {
		t.Errorf("available %v, %v", free, err)
	}
	// Nor do wild reports hurt.
	for i := range used {
		used[i] = netip.MustParseAddr("10.9.0.3")
	}
	s.SetUsed("node1", used)
	_, _, err = s.Reserve(Request{Runner: "node1"})
	refused(t, err, Taken)
}

// docker run --ip: reserve, run, the lease stands still; stop, it begins anew.
func TestUse(t *testing.T) {
	s, h, _ := ready(t)
	a := netip.MustParseAddr("10.1.0.9")
	_, token := mustReserve(t, s, Request{Runner: "node1", Addr: a, TTL: time.Minute})
	h.now.At += 59 * time.Second
	s.SetUsed("node1", []netip.Addr{a})
	h.now.At += 100 * time.Hour
	if l := s.List(""); len(l) != 1 || !l[0].InUse || l[0].Left != time.Minute {
		t.Fatalf("in use: %+v", l)
	}
	_, err := s.Release(token)
	refused(t, err, InUse, "in use by a container on node1", "stop the container")
	s.SetUsed("node1", nil)
	h.now.At += 59 * time.Second
	if l := s.List("node1"); len(l) != 1 || l[0].InUse || l[0].Left != time.Second {
		t.Fatalf("after use: %+v", l)
	}
	h.now.At += time.Second
	if l := s.List(""); len(l) != 0 {
		t.Errorf("after its time: %+v", l)
	}
	mustReserve(t, s, Request{Runner: "node1", Addr: a})
}

// Given back, an address is not the next to be given.
func TestGivenBack(t *testing.T) {
	s, _, _ := ready(t)
	first, token := mustReserve(t, s, Request{Runner: "node1"})
	if _, err := s.Release(token); err != nil {
		t.Fatal(err)
	}
	second, _ := mustReserve(t, s, Request{Runner: "node1"})
	if first.Addr == second.Addr || first.Addr.String() != "10.1.255.254" || second.Addr.String() != "10.1.255.253" {
		t.Errorf("given were %s, then %s", first.Addr, second.Addr)
	}
}
