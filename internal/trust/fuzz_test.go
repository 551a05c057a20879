// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"
)

// exampleState is a state with everything in it.
func exampleState(t testing.TB) []byte {
	next := issue{Issue: 2, Since: span(time.Hour)}
	s := &state{
		Version: stateVersion, CA: Fingerprint{1}.String(), Ran: span(time.Hour), Saved: time.Unix(1e9, 0).UTC(), Issued: 2,
		Tokens:  []token{{ID: "abcdefgh", Verifier: newToken(Fingerprint{}).verifier(), Ends: -1, Uses: 2, Used: 1}},
		Runners: []member{{Name: "a", Machine: machineA, Token: "abcdefgh", Current: issue{Key: keyIDOf(newToken(Fingerprint{}).verifier())}, Next: &next, Adopted: true}, {Name: "b", Machine: machineB}},
		Rebuilt: true, Removed: []string{"c"},
	}
	data, err := s.encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestStateComesBack(t *testing.T) {
	data := exampleState(t)
	s, err := decodeState(data)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.encode(); err != nil || !bytes.Equal(again, data) {
		t.Errorf("%v\n%s\n%s", err, data, again)
	}
}

func FuzzState(f *testing.F) {
	f.Add(exampleState(f))
	for _, s := range []string{"", "{}", `{"version":1}`, `{"version":1,"ran":"-1h"}`, `{"version":1,"ran":"9e99h"}`, `{"version":1}{}`,
		`{"version":1,"runners":[{"name":"b","machine":"m"},{"name":"a","machine":"m"}]}`, `{"version":1,"tokens":[{"id":"abcdefgh"}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(data)
		if err != nil {
			return
		}
		again, err := s.encode()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if _, err := decodeState(again); err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, again)
		}
		for _, m := range s.Runners {
			if got := s.member(m.Name); got == nil || got.Name != m.Name {
				t.Fatalf("runner %q is not found", m.Name)
			}
		}
	})
}

func FuzzCredential(f *testing.F) {
	c, err := newCA()
	if err != nil {
		f.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	der, err := sign(runnerTemplate(Identity{Name: "node1", Machine: machineA, issue: 7}), c.cert, newToken(Fingerprint{}).verifier(), c.key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.encode())
	f.Add(encodePEM(key))
	f.Add(encodePEM(key, der, c.cert))
	f.Add([]byte(tokenLine + "abcdefgh\n"))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der.Raw}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := decodeCredential(data); err == nil {
			again, err := decodeCredential(c.encode())
			if err != nil || !again.Cert.Equal(c.Cert) || !again.Key.Equal(c.Key) {
				t.Fatalf("it does not come back: %v", err)
			}
		}
		if c, err := decodeCA(data); err == nil {
			if _, err := decodeCA(c.encode()); err != nil {
				t.Fatalf("the CA does not come back: %v", err)
			}
		}
	})
}

// FuzzCertificate gives Check certificates that nobody made.
func FuzzCertificate(f *testing.F) {
	c, err := newCA()
	if err != nil {
		f.Fatal(err)
	}
	a := &Authority{ca: c, clock: systemClock()}
	a.state.Store(&state{})
	f.Add(c.cert.Raw)
	server, err := c.server([]string{"x"}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(server.Certificate[0])
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if id, _, err := a.Check(cert, nobody); err == nil {
			t.Fatalf("%+v was accepted", id)
		}
	})
}

// FuzzCSR gives the CA requests.
func FuzzCSR(f *testing.F) {
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	csr, err := NewCSR(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, csr []byte) {
		if pub, err := keyOf(csr); err == nil && len(pub) != 32 {
			t.Fatalf("a key of %d bytes", len(pub))
		}
	})
}
