// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestJoinAndStay(t *testing.T) {
	w := newWorld(t)
	if !w.IsNew() {
		t.Error("the first start is none")
	}
	token := w.token(time.Hour, 0)
	a := w.mustJoin(newJoiner(t, "node1", machineA), token)
	b := w.mustJoin(newJoiner(t, "node2", machineB), token)
	w.check(a, nil)
	w.check(b, nil)
	for _, name := range []string{CAFile, StateFile} {
		if info, err := os.Stat(filepath.Join(w.dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if strings.Contains(w.files()[StateFile], token.Reveal()[20:40]) {
		t.Error("the Host has stored a token's secret")
	}
	// The Host starts again, and both are known.
	w.open()
	if w.IsNew() {
		t.Error("the second start is a first")
	}
	w.check(a, nil)
	w.check(b, nil)
	if infos, valid := w.Tokens(); len(infos) != 1 || !valid[0] || infos[0].Used != 2 || infos[0].ID != token.ID {
		t.Errorf("tokens %+v, %v", infos, valid)
	}
	// A credential of another Host is nothing here.
	other := newWorld(t)
	foreign := other.mustJoin(newJoiner(t, "node1", machineA), other.token(time.Hour, 0))
	w.check(foreign, ErrForeign)
	// Nor is a certificate that is not for runners.
	server, err := w.ca.server(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.check(server.Leaf, ErrForeign)
	w.check(w.ca.cert, ErrForeign)
}

// Each refusal has its own error, and nothing changes, on disk or otherwise.
func TestRefusals(t *testing.T) {
	w := newWorld(t)
	good, short, once, revoked := w.token(time.Hour, 0), w.token(time.Minute, 0), w.token(time.Hour, 1), w.token(time.Hour, 0)
	w.mustJoin(newJoiner(t, "node1", machineA), good)
	w.mustJoin(newJoiner(t, "node9", machineA), once)
	if err := w.RevokeToken(revoked.ID); err != nil {
		t.Fatal(err)
	}
	w.hands.pass(2 * time.Minute)
	j := newJoiner(t, "node2", machineB)
	forged := good
	forged.secret[0]++
	veto := errors.New("no")

	proof := func(p Proof, change func(*Proof)) Proof { change(&p); return p }
	cases := map[string]struct {
		p    Proof
		here Session
		c    Claim
		vet  func(bool) error
		want error
	}{
		"wrong secret":                {forged.Prove(j.claim, here), here, j.claim, anybody, ErrWrongToken},
		"unknown id":                  {newToken(w.Fingerprint()).Prove(j.claim, here), here, j.claim, anybody, ErrWrongToken},
		"token of another CA":         {newToken(Fingerprint{1}).Prove(j.claim, here), here, j.claim, anybody, ErrWrongToken},
		"revoked token":               {revoked.Prove(j.claim, here), here, j.claim, anybody, ErrWrongToken},
		"expired":                     {short.Prove(j.claim, here), here, j.claim, anybody, ErrExpired},
		"used up":                     {once.Prove(j.claim, here), here, j.claim, anybody, ErrUsedUp},
		"replayed":                    {good.Prove(j.claim, here), Session{9}, j.claim, anybody, ErrReplayed},
		"replayed, session exchanged": {proof(good.Prove(j.claim, here), func(p *Proof) { p.Session = Session{9} }), Session{9}, j.claim, anybody, ErrWrongToken},
		"another name":                {good.Prove(j.claim, here), here, Claim{"node3", machineB, j.claim.CSR}, anybody, ErrWrongToken},
		"another key":                 {good.Prove(j.claim, here), here, Claim{"node2", machineB, newJoiner(t, "x", machineA).claim.CSR}, anybody, ErrWrongToken},
		"no signature":                {Proof{TokenID: good.ID, Session: here}, here, j.claim, anybody, ErrWrongToken},
		"no request":                  {good.Prove(Claim{"node2", machineB, []byte("x")}, here), here, Claim{"node2", machineB, []byte("x")}, anybody, ErrNotCSR},
		"vetoed":                      {good.Prove(j.claim, here), here, j.claim, func(bool) error { return veto }, veto},
	}
	before := w.files()
	for name, c := range cases {
		if der, err := w.Admit(c.p, c.here, c.c, c.vet); !errors.Is(err, c.want) || der != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	_, err := w.join(newJoiner(t, "node1", machineB), good)
	if e, ok := errors.AsType[*MachineError](err); !ok || e.Have != machineA || e.Got != machineB {
		t.Errorf("second machine: %v", err)
	}
	if err := w.RevokeToken("aaaaaaaa"); !errors.Is(err, ErrNoToken) {
		t.Errorf("revoke nothing: %v", err)
	}
	if had, err := w.Remove("nobody"); had || err != nil {
		t.Errorf("remove nobody: %v, %v", had, err)
	}
	if _, _, err := w.NewToken(0, 0); err == nil {
		t.Error("a token without a life was made")
	}
	if after := w.files(); !maps.Equal(before, after) {
		t.Errorf("something has changed on disk:\n%v\n%v", before, after)
	}
	// All of it said at once: messages differ.
	seen := make(map[string]bool)
	for _, e := range []error{ErrReplayed, ErrWrongToken, ErrExpired, ErrUsedUp, ErrForeign, ErrRevoked, ErrReplaced, ErrStale} {
		if seen[e.Error()] {
			t.Errorf("%q says two things", e)
		}
		seen[e.Error()] = true
	}
}

// A Runner that did not get the answer asks again, also with a token for one use,
// also after a restart of the Host.
func TestAnswerLost(t *testing.T) {
	w := newWorld(t)
	token := w.token(time.Hour, 1)
	j := newJoiner(t, "node1", machineA)
	w.mustJoin(j, token)
	before := w.files()
	w.open()
	w.check(w.mustJoin(j, token), nil)
	if !maps.Equal(before, w.files()) {
		t.Error("the second answer changed something")
	}
	if _, err := w.join(newJoiner(t, "node1", machineA), token); !errors.Is(err, ErrUsedUp) {
		t.Errorf("another key: %v", err)
	}
}

func TestRejoinAndRenew(t *testing.T) {
	w := newWorld(t)
	token := w.token(time.Hour, 0)
	first := w.mustJoin(newJoiner(t, "node1", machineA), token)
	rejoined := newJoiner(t, "node1", machineA)
	var asked bool
	der, err := w.Admit(token.Prove(rejoined.claim, here), here, rejoined.claim, func(rejoins bool) error { asked = rejoins; return nil })
	if err != nil || !asked {
		t.Fatalf("join anew: %v, told of it: %v", err, asked)
	}
	second, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	// The old one goes on until the new one is used.
	w.check(first, nil)
	w.check(second, nil)
	w.check(first, ErrReplaced)
	w.open()
	w.check(first, ErrReplaced)
	if _, renew, err := w.Check(second, nobody); err != nil || renew {
		t.Errorf("a new credential is to be renewed: %v, %v", renew, err)
	}

	w.hands.pass(RenewAfter)
	id, renew, err := w.Check(second, nobody)
	if err != nil || !renew {
		t.Errorf("an old credential is not to be renewed: %v, %v", renew, err)
	}
	next := newJoiner(t, "node1", machineA)
	der, err = w.Renew(id, next.claim.CSR)
	if err != nil {
		t.Fatal(err)
	}
	// Its answer was lost: the old one works, and renews again.
	w.check(second, nil)
	if again, err := w.Renew(id, next.claim.CSR); err != nil || again == nil {
		t.Errorf("renew again: %v", err)
	}
	third, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	w.check(third, nil)
	w.check(second, ErrReplaced)
	if _, err := w.Renew(id, next.claim.CSR); !errors.Is(err, ErrRevoked) {
		t.Errorf("renew with a credential that was replaced: %v", err)
	}
	if _, renew, err := w.Check(third, nobody); err != nil || renew {
		t.Errorf("the renewed credential is to be renewed: %v, %v", renew, err)
	}

	// Nobody renewed it for too long: that is, while the Host ran.
	w.hands.jump(100 * 365 * 24 * time.Hour)
	w.check(third, nil)
	w.hands.pass(ExpireAfter)
	w.check(third, ErrStale)
}

func TestRemove(t *testing.T) {
	w := newWorld(t)
	token := w.token(time.Hour, 0)
	j := newJoiner(t, "node1", machineA)
	c, d := w.mustJoin(j, token), w.mustJoin(newJoiner(t, "node2", machineB), token)
	if had, err := w.Remove("node1"); !had || err != nil {
		t.Fatalf("remove: %v, %v", had, err)
	}
	w.check(c, ErrRevoked)
	w.check(d, nil)
	w.open()
	w.check(c, ErrRevoked)
	// With a token it comes back, the old certificate does not: a key that was
	// revoked could be given out again.
	back := w.mustJoin(newJoiner(t, "node1", machineA), token)
	w.check(back, nil)
	w.check(c, ErrReplaced)
	// Another machine may take the name now, after it was removed.
	if _, err := w.Remove("node1"); err != nil {
		t.Fatal(err)
	}
	w.check(w.mustJoin(newJoiner(t, "node1", machineB), token), nil)
	w.check(back, ErrReplaced)
}

// What clocks do to a token, and what they do not.
func TestTokenClock(t *testing.T) {
	type step func(w *world)
	pass := func(d time.Duration) step { return func(w *world) { w.hands.pass(d) } }
	jump := func(d time.Duration) step { return func(w *world) { w.hands.jump(d) } }
	// stop lets the Host be down for a time that the calendar shows as cal.
	stop := func(cal time.Duration) step {
		return func(w *world) {
			if err := w.Save(); err != nil {
				w.t.Fatal(err)
			}
			w.hands.jump(cal)
			w.open()
		}
	}
	crash := func(cal time.Duration) step { return func(w *world) { w.hands.jump(cal); w.open() } }
	cases := map[string]struct {
		steps []step
		alive bool
	}{
		"within its life":                          {[]step{pass(23 * time.Hour)}, true},
		"at its end":                               {[]step{pass(24 * time.Hour)}, false},
		"the clock jumps ahead":                    {[]step{jump(48 * time.Hour), pass(time.Hour)}, true},
		"the clock jumps back":                     {[]step{jump(-48 * time.Hour), pass(24 * time.Hour)}, false},
		"down for its whole life":                  {[]step{stop(24 * time.Hour)}, false},
		"down for a part":                          {[]step{pass(12 * time.Hour), stop(11 * time.Hour)}, true},
		"down for the rest":                        {[]step{pass(12 * time.Hour), stop(12 * time.Hour)}, false},
		"the clock set back while down":            {[]step{pass(12 * time.Hour), stop(-1000 * time.Hour), pass(11 * time.Hour)}, true},
		"the clock set back while down, no longer": {[]step{pass(12 * time.Hour), stop(-1000 * time.Hour), pass(12 * time.Hour)}, false},
		"a crash counts as being down":             {[]step{pass(12 * time.Hour), crash(12 * time.Hour)}, false},
		"a jump that was mended before a restart":  {[]step{jump(48 * time.Hour), pass(time.Hour), jump(-48 * time.Hour), stop(time.Hour)}, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			token := w.token(24*time.Hour, 0)
			for _, s := range c.steps {
				s(w)
			}
			_, err := w.join(newJoiner(t, "node1", machineA), token)
			if c.alive && err != nil || !c.alive && !errors.Is(err, ErrExpired) {
				t.Errorf("join: %v", err)
			}
			if _, valid := w.Tokens(); valid[0] != c.alive {
				t.Errorf("the list says %v", valid[0])
			}
		})
	}
}

// A certificate is judged the same in any year.
func TestNoCalendarInCertificates(t *testing.T) {
	for _, year := range []int{1970, 2026, 2200} {
		w := newWorld(t)
		w.hands.jump(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Sub(w.hands.wall))
		w.open()
		c := w.mustJoin(newJoiner(t, "node1", machineA), w.token(time.Hour, 0))
		for _, jump := range []time.Duration{-50 * 365 * 24 * time.Hour, 200 * 365 * 24 * time.Hour} {
			w.hands.jump(jump)
			w.open()
			w.check(c, nil)
		}
	}
}

// Tokens that expired long ago are forgotten; the rest is bounded.
func TestManyTokens(t *testing.T) {
	w := newWorld(t)
	for range maxTokens {
		w.token(time.Hour, 0)
	}
	if _, _, err := w.NewToken(time.Hour, 0); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
	w.hands.pass(time.Hour + keepExpired)
	w.token(time.Hour, 0)
	if infos, _ := w.Tokens(); len(infos) != 1 {
		t.Errorf("%d tokens are remembered", len(infos))
	}
}

// Where nothing can be stored nothing changes, and the error says why.
func TestNoSpace(t *testing.T) {
	w := newWorld(t)
	token := w.token(time.Hour, 0)
	c := w.mustJoin(newJoiner(t, "node1", machineA), token)
	id, _, err := w.Check(c, nobody)
	if err != nil {
		t.Fatal(err)
	}
	saved := w.files()
	full := t.TempDir()
	if err := syscall.Mount("small", full, "tmpfs", 0, "size=16k,mode=700"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(full, 0); err != nil {
			t.Error(err)
		}
	}()
	for name, text := range saved {
		if err := os.WriteFile(filepath.Join(full, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.dir = full
	w.open()
	filler, err := os.Create(filepath.Join(full, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = filler.Write(make([]byte, 512))
	}
	filler.Close()
	for name, change := range map[string]func() error{
		"token":  func() error { _, _, err := w.NewToken(time.Hour, 0); return err },
		"revoke": func() error { return w.RevokeToken(token.ID) },
		"join":   func() error { _, err := w.join(newJoiner(t, "node2", machineB), token); return err },
		"renew":  func() error { _, err := w.Renew(id, newJoiner(t, "x", machineA).claim.CSR); return err },
		"remove": func() error { _, err := w.Remove("node1"); return err },
	} {
		err := change()
		if _, ok := errors.AsType[*StoreError](err); !ok || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", name, err)
		}
		w.check(c, nil)
	}
	now := w.files()
	delete(now, "filler")
	if !maps.Equal(saved, now) {
		t.Errorf("the files have changed: %v", now)
	}
	infos, valid := w.Tokens()
	if len(infos) != 1 || !valid[0] || infos[0].Used != 1 || len(w.Members()) != 1 {
		t.Errorf("what is in memory has changed: %+v, %+v", infos, w.Members())
	}
	// A credential whose renewal cannot be written down is accepted all the same.
	if err := os.Remove(filepath.Join(full, "filler")); err != nil {
		t.Fatal(err)
	}
	w.check(c, nil)
	w.token(time.Hour, 0)
}

func TestDamagedState(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "garbage": "{{{", "cut": `{"version":1,"ca":`, "newer": `{"version":2}`, "another CA": `{"version":1,"ca":"aaaa","ran":"1h0m0s"}`, "gone": "-",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			token := w.token(time.Hour, 0)
			j := newJoiner(t, "node1", machineA)
			c := w.mustJoin(j, token)
			removed := w.mustJoin(newJoiner(t, "node2", machineB), token)
			newer := w.mustJoin(newJoiner(t, "node1", machineA), token)
			path := filepath.Join(w.dir, StateFile)
			if text == "-" {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			w.open()
			if b, err := os.ReadFile(path + ".damaged"); text != "-" && (err != nil || string(b) != text) {
				t.Errorf("set aside: %q, %v", b, err)
			}
			if !strings.Contains(w.log.String(), "tokens are void") {
				t.Errorf("the log says\n%s", w.log)
			}
			if _, err := w.join(newJoiner(t, "node3", machineA), token); !errors.Is(err, ErrWrongToken) {
				t.Errorf("the token: %v", err)
			}
			// node1 has a device here, for machineA; node2 has none.
			known := func(name string) (string, bool) { return machineA, name == "node1" }
			check := func(c *x509.Certificate, want error) {
				t.Helper()
				if _, _, err := w.Check(c, known); !errors.Is(err, want) {
					t.Errorf("Check: %v, want %v", err, want)
				}
			}
			check(removed, ErrRevoked)
			check(c, nil)
			check(newer, nil) // the later one wins
			check(c, ErrReplaced)
			w.open()
			check(newer, nil)
			check(c, ErrReplaced)
			// And what is removed now stays removed.
			if _, err := w.Remove("node1"); err != nil {
				t.Fatal(err)
			}
			check(newer, ErrRevoked)
			w.open()
			check(newer, ErrRevoked)
			again := w.mustJoin(newJoiner(t, "node1", machineA), w.token(time.Hour, 0))
			check(again, nil)
			check(newer, ErrReplaced)
		})
	}
}

func TestDamagedCA(t *testing.T) {
	w := newWorld(t)
	token := w.token(time.Hour, 0)
	c := w.mustJoin(newJoiner(t, "node1", machineA), token)
	was := w.Fingerprint()
	path := filepath.Join(w.dir, CAFile)
	whole := w.files()[CAFile]
	for name, text := range map[string]string{"empty": "", "half": whole[:len(whole)/2], "no key": whole[strings.Index(whole, "-----BEGIN CERT"):]} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w.open()
		if w.Fingerprint() == was || !w.IsNew() {
			t.Errorf("%s: the CA is the old one", name)
		}
		if b, err := os.ReadFile(path + ".damaged"); err != nil || string(b) != text {
			t.Errorf("%s: set aside %q, %v", name, b, err)
		}
		w.check(c, ErrForeign)
	}
	if !strings.Contains(w.log.String(), "every runner has to join again") {
		t.Errorf("the log says\n%s", w.log)
	}
	// The copy that somebody had is put back.
	if err := os.WriteFile(path, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	if w.Fingerprint() != was {
		t.Error("the CA is not the old one")
	}
}

// Without a place to write there is no CA, and no half of one.
func TestNoCA(t *testing.T) {
	w := newWorld(t)
	w.dir = filepath.Join(w.dir, CAFile, "below-a-file")
	if err := w.tryOpen(); err == nil || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("Open: %v", err)
	}
}

// Many at once: each use is counted, no more than allowed.
func TestRacingJoins(t *testing.T) {
	w := newWorld(t)
	const allowed, runners = 20, 50
	token := w.token(time.Hour, allowed)
	var joiners []joiner
	for i := range runners {
		joiners = append(joiners, newJoiner(t, fmt.Sprint("node", i), machineA))
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	in := 0
	for _, j := range joiners {
		group.Go(func() {
			_, err := w.join(j, token)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				in++
			case !errors.Is(err, ErrUsedUp):
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.open()
	if infos, _ := w.Tokens(); in != allowed || infos[0].Used != allowed || len(w.Members()) != allowed {
		t.Errorf("%d are in, %+v, %d members", in, infos, len(w.Members()))
	}
}
