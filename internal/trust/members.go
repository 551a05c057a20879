// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
)

// Admit lets a Runner in: it gives a certificate for the key in the claim's CSR, in
// DER. here is the connection that the request came by. vet has the last word
// before anything is changed; rejoins says that the name has a credential already,
// with another key.
//
// A Runner that did not get the answer asks again, with the same key and token, and
// gets it again: that is no second use. One that lost its credential joins anew: the
// old one is valid until the new one is used.
func (a *Authority) Admit(p Proof, here Session, c Claim, vet func(rejoins bool) error) ([]byte, error) {
	if !plain(c.Name) || !plain(c.Machine) {
		return nil, errors.New("the name or the machine id is none")
	}
	pub, err := keyOf(c.CSR)
	if err != nil {
		return nil, err
	}
	if err := a.prove(p, here, c); err != nil {
		return nil, err
	}
	var made *x509.Certificate
	err = a.update(func(s *state) error {
		t := s.token(p.TokenID)
		if t == nil {
			return ErrWrongToken // revoked since
		}
		have := s.member(c.Name)
		if have != nil && have.Machine != c.Machine {
			return &MachineError{Name: c.Name, Have: have.Machine, Got: c.Machine}
		}
		if have != nil && have.Token == t.ID {
			if old := have.issuedAs(keyIDOf(pub)); old != nil {
				made, err = a.certify(c.Name, c.Machine, *old, pub)
				return errors.Join(err, errUnchanged)
			}
		}
		if t.Uses > 0 && t.Used >= t.Uses {
			return ErrUsedUp
		}
		if err := vet(have != nil); err != nil {
			return err
		}
		if have == nil && len(s.Runners) >= maxRunners {
			return errors.New("there are too many runners")
		}
		t.Used++
		is := a.issueFor(s, pub)
		m := member{Name: c.Name, Machine: c.Machine, Token: t.ID, Current: is}
		if have != nil {
			m.Current, m.Adopted, m.Next = have.Current, have.Adopted, &is
		}
		s.put(m)
		made, err = a.certify(c.Name, c.Machine, is, pub)
		return err
	})
	if err != nil {
		return nil, err
	}
	return made.Raw, nil
}

// prove judges a request's proof and the token's age.
func (a *Authority) prove(p Proof, here Session, c Claim) error {
	verifier := make(ed25519.PublicKey, ed25519.PublicKeySize)
	t := a.state.Load().token(p.TokenID)
	if t != nil {
		verifier = t.Verifier
	}
	// Verified for an unknown token, too: it takes as long.
	err := p.verify(c, verifier, here)
	switch {
	case errors.Is(err, ErrReplayed):
		return err
	case t == nil || err != nil:
		return ErrWrongToken
	case !a.alive(*t):
		return ErrExpired
	}
	return nil
}

// issueFor counts one more credential.
func (a *Authority) issueFor(s *state, pub ed25519.PublicKey) issue {
	s.Issued++
	return issue{Key: keyIDOf(pub), Issue: s.Issued, Since: a.now()}
}

func (a *Authority) certify(name, machine string, is issue, pub ed25519.PublicKey) (*x509.Certificate, error) {
	return sign(runnerTemplate(Identity{Name: name, Machine: machine, issue: is.Issue}), a.ca.cert, pub, a.ca.key)
}

func keyIDOf(pub ed25519.PublicKey) KeyID {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil { // not of an Ed25519 key
		panic(err)
	}
	return sha256.Sum256(der)
}

// Check says who has a certificate, of which the connection has shown that the key
// is there too. renew: it is time for a new one. The errors are ErrForeign,
// ErrRevoked, ErrReplaced and ErrStale.
//
// known tells the machine id of a name by what the Host has built for it. It is
// asked only after the list was lost: then a credential that the CA signed is taken
// back for a Runner that still has its VXLAN device, the newest if there are
// several.
func (a *Authority) Check(c *x509.Certificate, known func(name string) (machine string, ok bool)) (id Identity, renew bool, err error) {
	if verifyBy(a.ca.cert, c, x509.ExtKeyUsageClientAuth, "") != nil {
		return Identity{}, false, ErrForeign
	}
	if id, err = identityIn(c); err != nil {
		return Identity{}, false, err
	}
	s := a.state.Load()
	m := s.member(id.Name)
	if s.Rebuilt && (m == nil || m.Adopted && id.issue > m.Current.Issue && m.issuedAs(id.Key) == nil) {
		if m, err = a.adopt(id, known); err != nil {
			return Identity{}, false, err
		}
	}
	switch {
	case m == nil:
		return Identity{}, false, ErrRevoked
	case m.Machine != id.Machine:
		return Identity{}, false, ErrReplaced
	}
	is := m.issuedAs(id.Key)
	if is == nil {
		return Identity{}, false, ErrReplaced
	}
	age := a.now() - is.Since
	if age >= span(ExpireAfter) {
		return Identity{}, false, ErrStale
	}
	if is == m.Next {
		a.promote(id)
	}
	return id, age >= span(RenewAfter) || is == &m.Current && m.Next != nil, nil
}

// issuedAs gives the credential with that key, if the member has one.
func (m *member) issuedAs(key KeyID) *issue {
	switch {
	case m.Current.Key == key:
		return &m.Current
	case m.Next != nil && m.Next.Key == key:
		return m.Next
	}
	return nil
}

// promote ends the old credential: the new one has arrived. As long as that cannot
// be stored both are valid.
func (a *Authority) promote(id Identity) {
	err := a.update(func(s *state) error {
		m := s.member(id.Name)
		if m == nil || m.Next == nil || m.Next.Key != id.Key {
			return errUnchanged
		}
		m.Current, m.Next, m.Adopted = *m.Next, nil, false
		return nil
	})
	if err != nil {
		a.log.Warn("a runner's old credential stays valid", "runner", id.Name, "error", err)
	} else {
		a.log.Info("a runner uses its new credential, an earlier one is void", "runner", id.Name)
	}
}

// adopt enters a credential that is on no list.
func (a *Authority) adopt(id Identity, known func(string) (string, bool)) (got *member, err error) {
	machine, ok := known(id.Name)
	if !ok || machine != id.Machine || slices.Contains(a.state.Load().Removed, id.Name) {
		return nil, ErrRevoked
	}
	m := member{Name: id.Name, Machine: id.Machine, Adopted: true}
	err = a.update(func(s *state) error {
		m.Current = issue{Key: id.Key, Issue: id.issue, Since: a.now()}
		s.Issued = max(s.Issued, id.issue)
		s.put(m)
		return nil
	})
	if err != nil {
		a.log.Warn("a credential was taken back for now", "runner", id.Name, "error", err)
	} else {
		a.log.Warn("a credential was taken back, since the list of credentials had been lost", "runner", id.Name)
	}
	return &m, nil
}

// Renew gives a new certificate for the holder of a credential that Check accepted.
// The old one is valid until the new one is used.
func (a *Authority) Renew(id Identity, csr []byte) ([]byte, error) {
	pub, err := keyOf(csr)
	if err != nil {
		return nil, err
	}
	var made *x509.Certificate
	err = a.update(func(s *state) error {
		m := s.member(id.Name)
		if m == nil || m.issuedAs(id.Key) == nil {
			return ErrRevoked
		}
		if old := m.issuedAs(keyIDOf(pub)); old != nil { // the answer was lost
			made, err = a.certify(m.Name, m.Machine, *old, pub)
			return errors.Join(err, errUnchanged)
		}
		is := a.issueFor(s, pub)
		m.Next = &is
		made, err = a.certify(m.Name, m.Machine, is, pub)
		return err
	})
	if err != nil {
		return nil, err
	}
	a.log.Info("a runner renews its credential", "runner", id.Name)
	return made.Raw, nil
}

// Remove revokes a Runner's credential. had is false when it had none.
func (a *Authority) Remove(name string) (had bool, err error) {
	err = a.update(func(s *state) error {
		i, ok := s.find(name)
		if ok {
			s.Runners = slices.Delete(s.Runners, i, i+1)
			had = true
		}
		if s.Rebuilt && plain(name) && !slices.Contains(s.Removed, name) {
			s.Removed = append(s.Removed, name)
			s.Removed = s.Removed[max(0, len(s.Removed)-maxRemoved):]
		} else if !ok {
			return errUnchanged
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if had {
		a.log.Warn("a runner's credential was revoked", "runner", name)
	}
	return had, nil
}

// Member is a Runner that has a credential.
type Member struct {
	Name, Machine string
	Token         string // id of the one it joined with
}

// Members lists them by name.
func (a *Authority) Members() []Member {
	var all []Member
	for _, m := range a.state.Load().Runners {
		all = append(all, Member{m.Name, m.Machine, m.Token})
	}
	return all
}
