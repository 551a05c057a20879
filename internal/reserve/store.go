// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"kohaku/internal/statefile"
)

// FileName is the state file's, in the Host's state directory.
const FileName = "reservations.json"

// Store is a Host's reservations with their file. It is safe for concurrent use.
type Store struct {
	path  string // constant
	clock Clock  // constant

	mu    sync.Mutex
	table *table
	key   Key
}

// Open reads the reservations in the state directory dir; without a file there are
// none, and nothing is written before the first is made. A file that cannot be
// understood is renamed to end in ".damaged" and said as damage, which is no error:
// its reservations, and its tokens, are lost. A nil clock is BootClock.
func Open(dir string, clock Clock) (s *Store, damage, err error) {
	if clock == nil {
		clock = BootClock
	}
	s = &Store{path: filepath.Join(dir, FileName), clock: clock, table: newTable(), key: newKey()}
	data, err := statefile.Read(s.path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil, nil
	}
	if err == nil {
		var leases map[netip.Addr]*lease
		if s.key, leases, err = decode(data, clock()); err == nil {
			s.table.leases = leases
			return s, nil, nil
		}
		s.key = newKey()
	} else if !errors.Is(err, statefile.ErrTooLarge) {
		return nil, nil, fmt.Errorf("read the reservations: %w", err)
	}
	aside, asideErr := statefile.SetAside(s.path)
	if asideErr != nil {
		return nil, nil, fmt.Errorf("the reservations in %s cannot be used: %w; %w", s.path, err, asideErr)
	}
	return s, fmt.Errorf("the reservations in %s cannot be used: %w; the file is now %s, all reservations are lost and their tokens are void",
		s.path, err, aside), nil
}

// Bind says that a Runner has joined with this pool. Reservations that do not fit
// it any more end.
func (s *Store) Bind(runner string, pool Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.bind(runner, pool)
}

// Rename says that a Runner has another name than before.
func (s *Store) Rename(old, new string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.rename(old, new)
}

// Drop says that a Runner's allocation has ended, and its reservations with it.
func (s *Store) Drop(runner string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.drop(runner)
}

// SetUsed notes the addresses that a Runner's containers have. Those that are not
// of its pool do not count.
func (s *Store) SetUsed(runner string, used []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.setUsed(runner, used, s.clock().At)
}

// Flush writes down what Bind, Drop and SetUsed changed since the last writing, if
// anything. The caller repeats it now and then: losing such a change in a crash is
// harmless, since Runners tell what they use again and again.
func (s *Store) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.table.dirty {
		return nil
	}
	return s.write()
}

// write writes the state. Guarded by mu.
func (s *Store) write() error {
	if err := statefile.Write(s.path, encode(s.key, s.table.leases, s.clock()), 0o600); err != nil {
		return &Error{Kind: Unwritable, Err: err, Text: fmt.Sprintf("the reservations could not be written down, and are as before: %v", err),
			Hint: "make room or put the directory right (state_dir in the [host] section), then try again"}
	}
	s.table.dirty = false
	return nil
}

// Reserve makes a reservation and its token. Every error is an *Error.
func (s *Store) Reserve(q Request) (Reservation, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock()
	l, err := s.table.reserve(q, newID(), now.At)
	if err != nil {
		return Reservation{}, "", err
	}
	if err := s.write(); err != nil {
		delete(s.table.leases, l.addr)
		return Reservation{}, "", err
	}
	token := s.key.sign(claims{ID: l.id, Runner: l.runner, Addr: l.addr, Name: l.name, Ends: time.Now().Add(l.ttl).Unix()})
	return l.public(now.At), token, nil
}

// Release ends the reservation that a token stands for. Every error is an *Error.
func (s *Store) Release(token string) (Reservation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.key.verify(token)
	if err != nil {
		return Reservation{}, err
	}
	now := s.clock()
	l, err := s.table.release(c, now.At, time.Now())
	if err != nil {
		return Reservation{}, err
	}
	if err := s.write(); err != nil {
		s.table.leases[l.addr] = l
		return Reservation{}, err
	}
	return l.public(now.At), nil
}

// List gives the reservations of one Runner, or of all with "", sorted by Runner
// and address.
func (s *Store) List(runner string) []Reservation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.list(runner, s.clock().At)
}

// Available gives the lowest free addresses of a Runner, at most limit.
func (s *Store) Available(runner string, limit int) ([]netip.Addr, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.available(runner, limit, s.clock().At)
}

// Info sums up a Runner's addresses.
func (s *Store) Info(runner string) (Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table.info(runner, s.clock().At)
}

// Counts gives how many reservations there are, and how many of them are in use.
func (s *Store) Counts() (all, inUse int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table.expire(s.clock().At)
	for l := range maps.Values(s.table.leases) {
		if l.inUse {
			inUse++
		}
	}
	return len(s.table.leases), inUse
}
