// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// StateFile is the file in the Host's state directory with the tokens and the list
// of valid credentials. There is no secret in it.
const StateFile = "trust.json"

const (
	stateVersion = 1
	maxState     = 32 << 20
	maxTokens    = 256
	maxRunners   = 1 << 16
	maxRemoved   = 1024
	maxUses      = 1 << 20
	maxSpan      = 100 * 365 * 24 * time.Hour
)

// span is a duration that JSON shows as a person writes it.
type span time.Duration

func (s span) MarshalText() ([]byte, error) { return []byte(time.Duration(s).String()), nil }

func (s *span) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err == nil && d.Abs() > maxSpan {
		err = errors.New("longer than a century")
	}
	*s = span(d)
	return err
}

// state is what is stored. A stored state is never changed: a new one takes its
// place. Points in time are on the Host's own scale, the time that it has been
// running so far.
type state struct {
	Version int       `json:"version"`
	CA      string    `json:"ca"`      // fingerprint of the CA that it belongs to
	Ran     span      `json:"ran"`     // as of Saved
	Saved   time.Time `json:"saved"`   // by the calendar
	Issued  uint64    `json:"issued"`  // certificates so far
	Tokens  []token   `json:"tokens"`  // sorted by Created
	Runners []member  `json:"runners"` // sorted by Name
	// Rebuilt says that an earlier list was lost. Credentials of the CA that are
	// on no list are then taken back, see Authority.Check; but for those of
	// Removed names.
	Rebuilt bool     `json:"rebuilt,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// token is what the Host keeps of a Token.
type token struct {
	ID       string            `json:"id"`
	Verifier ed25519.PublicKey `json:"verifier"`
	Made     time.Time         `json:"made"` // by the calendar, to be shown
	Ends     span              `json:"ends"` // on the Host's scale
	Uses     int               `json:"uses"` // 0: any number
	Used     int               `json:"used"`
}

// member is a Runner that has joined.
type member struct {
	Name    string `json:"name"`
	Machine string `json:"machine"`
	Token   string `json:"token"` // id of the one it joined with
	Current issue  `json:"current"`
	// Next was made to renew Current and takes its place when it is first used.
	Next    *issue `json:"next,omitempty"`
	Adopted bool   `json:"adopted,omitempty"` // Current was taken back, see Rebuilt
}

// issue is one credential.
type issue struct {
	Key   KeyID  `json:"key"`
	Issue uint64 `json:"issue"`
	Since span   `json:"since"` // on the Host's scale
}

// clone gives a copy to change.
func (s *state) clone() *state {
	c := *s
	c.Tokens, c.Runners, c.Removed = slices.Clone(s.Tokens), slices.Clone(s.Runners), slices.Clone(s.Removed)
	return &c
}

func (s *state) token(id string) *token {
	for i := range s.Tokens {
		if s.Tokens[i].ID == id {
			return &s.Tokens[i]
		}
	}
	return nil
}

// find gives a member's place, or where it would be.
func (s *state) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.Runners, name, func(m member, name string) int {
		return bytes.Compare([]byte(m.Name), []byte(name))
	})
}

func (s *state) member(name string) *member {
	if i, ok := s.find(name); ok {
		return &s.Runners[i]
	}
	return nil
}

// put enters a member or replaces it.
func (s *state) put(m member) {
	i, ok := s.find(m.Name)
	if ok {
		s.Runners[i] = m
	} else {
		s.Runners = slices.Insert(s.Runners, i, m)
	}
	s.Removed = slices.DeleteFunc(s.Removed, func(n string) bool { return n == m.Name })
}

func (s *state) encode() ([]byte, error) {
	data, err := json.MarshalIndent(s, "", " ")
	return append(data, '\n'), err
}

// decodeState reads what encode wrote and checks everything that others rely on.
func decodeState(data []byte) (*state, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var s state
	if err := d.Decode(&s); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the end")
	}
	return &s, s.check()
}

func (s *state) check() error {
	switch {
	case s.Version != stateVersion:
		return fmt.Errorf("version %d is not %d, which this kohaku writes", s.Version, stateVersion)
	case len(s.Tokens) > maxTokens || len(s.Runners) > maxRunners || len(s.Removed) > maxRemoved:
		return errors.New("more entries than there can be")
	case s.Ran < 0:
		return errors.New("a negative running time")
	}
	seen := make(map[string]bool)
	for _, t := range s.Tokens {
		switch {
		case CheckTokenID(t.ID) != nil || seen[t.ID]:
			return fmt.Errorf("token id %q is none, or is there twice", t.ID)
		case len(t.Verifier) != ed25519.PublicKeySize:
			return fmt.Errorf("token %s has no verifier", t.ID)
		case t.Uses < 0 || t.Used < 0 || t.Uses > maxUses || t.Used > maxUses:
			return fmt.Errorf("token %s was used %d of %d times", t.ID, t.Used, t.Uses)
		}
		seen[t.ID] = true
	}
	for i, m := range s.Runners {
		switch {
		case !plain(m.Name) || !plain(m.Machine):
			return fmt.Errorf("runner %q, machine %q: that is no name", m.Name, m.Machine)
		case i > 0 && s.Runners[i-1].Name >= m.Name:
			return fmt.Errorf("runner %q is out of order, or there twice", m.Name)
		}
	}
	for _, n := range s.Removed {
		if !plain(n) {
			return fmt.Errorf("removed %q: that is no name", n)
		}
	}
	return nil
}
