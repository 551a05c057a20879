// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"fmt"
	"slices"
	"time"
)

// DefaultTTL is a token's life where nobody says otherwise; MaxTTL is the longest.
const (
	DefaultTTL = 24 * time.Hour
	MaxTTL     = 365 * 24 * time.Hour
)

// MaxUses is the most that a token's uses can be limited to.
const MaxUses = maxUses

// TokenInfo is what a token looks like from outside: there is no secret in it.
type TokenInfo struct {
	ID      string
	Made    time.Time
	Expires time.Time // by the calendar, if nobody changes it
	Uses    int       // 0: any number
	Used    int
}

// Expired and UsedUp say why a token is of no use any more.
func (t TokenInfo) Expired(now time.Time) bool { return !now.Before(t.Expires) }

// UsedUp reports whether all uses are gone.
func (t TokenInfo) UsedUp() bool { return t.Uses > 0 && t.Used >= t.Uses }

// NewToken makes a token with a life of ttl for that many uses, 0 being any
// number. This is the only time that its secret is known.
func (a *Authority) NewToken(ttl time.Duration, uses int) (Token, TokenInfo, error) {
	if ttl < time.Second || ttl > MaxTTL {
		return Token{}, TokenInfo{}, fmt.Errorf("a token's life is 1s to %v, not %v", MaxTTL, ttl)
	}
	if uses < 0 || uses > MaxUses {
		return Token{}, TokenInfo{}, fmt.Errorf("a token's uses are 1 to %d, or 0 for any number, not %d", MaxUses, uses)
	}
	made := newToken(a.Fingerprint())
	var info TokenInfo
	err := a.update(func(s *state) error {
		s.prune(a.now())
		if len(s.Tokens) >= maxTokens {
			return ErrTooMany
		}
		t := token{ID: made.ID, Verifier: made.verifier(), Made: a.clock.Wall().UTC().Round(0), Ends: a.now() + span(ttl), Uses: uses}
		s.Tokens = append(s.Tokens, t)
		info = a.info(t)
		return nil
	})
	if err != nil {
		return Token{}, TokenInfo{}, err
	}
	a.log.Info("a join token was made", "id", made.ID, "ttl", ttl, "uses", uses)
	return made, info, nil
}

func (a *Authority) info(t token) TokenInfo {
	left := time.Duration(t.Ends - a.now())
	return TokenInfo{ID: t.ID, Made: t.Made, Expires: a.clock.Wall().Add(left).Round(time.Second), Uses: t.Uses, Used: t.Used}
}

// Tokens lists all tokens that are remembered, the oldest first, and says which of
// them still let somebody in.
func (a *Authority) Tokens() (all []TokenInfo, valid []bool) {
	for _, t := range a.state.Load().Tokens {
		info := a.info(t)
		all = append(all, info)
		valid = append(valid, a.alive(t) && !info.UsedUp())
	}
	return all, valid
}

func (a *Authority) alive(t token) bool { return a.now() < t.Ends }

// RevokeToken makes a token useless. Who joined with it stays. ErrNoToken: there is
// none with that id.
func (a *Authority) RevokeToken(id string) error {
	err := a.update(func(s *state) error {
		before := len(s.Tokens)
		s.Tokens = slices.DeleteFunc(s.Tokens, func(t token) bool { return t.ID == id })
		if len(s.Tokens) == before {
			return ErrNoToken
		}
		return nil
	})
	if err == nil {
		a.log.Info("a join token was revoked", "id", id)
	}
	return err
}
