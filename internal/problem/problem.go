// SPDX-License-Identifier: Apache-2.0

// Package problem keeps what is wrong with a daemon right now, for its status and
// its log.
package problem

import (
	"log/slog"
	"slices"
	"sync"

	"kohaku/internal/api"
)

// Set holds at most one problem per key. A problem is logged when it appears, when
// its text changes and when it is over, not each time it is met again. It is safe
// for concurrent use.
type Set struct {
	log *slog.Logger // constant

	mu   sync.Mutex
	text map[string]string
}

// NewSet makes an empty set that logs to log.
func NewSet(log *slog.Logger) *Set {
	return &Set{log: log, text: make(map[string]string)}
}

// Set records the outcome of what key stands for: a problem, or with a nil err
// none (any more). It reports whether there is none, so that a caller can go on.
func (s *Set) Set(key string, err error) (fine bool) {
	if err == nil {
		s.Clear(key)
		return true
	}
	text := api.Printable(err.Error())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.text[key] != text {
		s.text[key] = text
		s.log.Warn(text, "problem", key)
	}
	return false
}

// Clear says that the problem, if there was one, is over.
func (s *Set) Clear(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was, ok := s.text[key]; ok {
		delete(s.text, key)
		s.log.Info("problem is over", "problem", key, "was", was)
	}
}

// Get gives the problem of a key; empty when there is none.
func (s *Set) Get(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text[key]
}

// List gives the problems, sorted by key.
func (s *Set) List() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make([]string, 0, len(s.text))
	for k := range s.text {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]string, 0, len(keys))
	for _, k := range keys {
		out = append(out, s.text[k])
	}
	return out
}
