// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// credential joins a machine and puts its credential together.
func (w *world) credential(j joiner, t Token) *Credential {
	w.t.Helper()
	c, err := NewCredential(j.key, w.mustJoin(j, t).Raw, w.ca.cert, t.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func TestHandshakes(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	token := w.token(time.Hour, 0)
	c := w.credential(newJoiner(t, "node1", machineA), token)

	// With the token alone: the CA is learned, both ends agree on the session, and
	// another connection has another one.
	a, b, err := w.shake(token.JoinTLS())
	if err != nil {
		t.Fatal(err)
	}
	ca, err := token.HostCA(&a)
	if err != nil || fingerprint(ca) != w.Fingerprint() {
		t.Errorf("the CA: %v", err)
	}
	mine, err1 := SessionOf(&a)
	theirs, err2 := SessionOf(&b)
	if err1 != nil || err2 != nil || mine != theirs {
		t.Errorf("sessions differ: %v, %v", err1, err2)
	}
	a2, _, err := w.shake(token.JoinTLS())
	if err != nil {
		t.Fatal(err)
	}
	if next, _ := SessionOf(&a2); next == mine {
		t.Error("two connections have one session")
	}

	// With the credential: the Host sees it, by its name here and after a restart.
	for range 2 {
		_, b, err := w.shake(c.ClientTLS())
		if err != nil || len(b.PeerCertificates) != 1 {
			t.Fatalf("%v", err)
		}
		w.check(b.PeerCertificates[0], nil)
		w.open()
	}

	// Another Host is not believed, with the token or with the credential.
	for name, config := range map[string]*tls.Config{"token": token.JoinTLS(), "credential": c.ClientTLS()} {
		_, _, err := other.shake(config)
		pin, ok := errors.AsType[*PinError](err)
		if !ok || pin.Want != w.Fingerprint() || pin.Got != other.Fingerprint() {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Nor is a Runner that poses as the Host, with its own certificate.
	posing := tls.Certificate{Certificate: [][]byte{c.Cert.Raw, w.ca.cert.Raw}, PrivateKey: c.Key}
	for name, chain := range map[string][][]byte{
		"its own": posing.Certificate, "alone": {c.Cert.Raw}, "only the CA": {w.ca.cert.Raw},
	} {
		posing.Certificate = chain
		if _, _, err := shakeWith(t, token.JoinTLS(), &tls.Config{Certificates: []tls.Certificate{posing}, MinVersion: tls.VersionTLS13}); err == nil {
			t.Errorf("a Runner posed as the Host with %s", name)
		}
	}
	// TLS 1.2 is refused by either end.
	old := token.JoinTLS()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, _, err := w.shake(old); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
	if _, err := SessionOf(&tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS12}); err == nil {
		t.Error("a session of TLS 1.2")
	}
	if _, err := SessionOf(nil); err == nil {
		t.Error("a session of no TLS")
	}
}

func TestKeeper(t *testing.T) {
	w := newWorld(t)
	token := w.token(time.Hour, 0)
	dir := filepath.Join(t.TempDir(), "state")
	k, again := NewKeeper(dir, nil), NewKeeper(dir, nil)
	if c, err := k.Current(); c != nil || err != nil {
		t.Errorf("before: %v, %v", c, err)
	}
	// The key of a join is the same until it is over, and for that token.
	first, err := k.JoinKey(token)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := again.JoinKey(token); err != nil || !first.Equal(second) {
		t.Errorf("the second attempt has another key, %v", err)
	}
	if other, err := k.JoinKey(w.token(time.Hour, 0)); err != nil || other.Equal(first) {
		t.Errorf("another token has the same key, %v", err)
	}
	c := w.credential(newJoiner(t, "node1", machineA), token)
	if err := k.Replace(c); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left beside the credential: %v", entries)
	}
	if info, err := os.Stat(filepath.Join(dir, CredentialFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	got, err := again.Current()
	if err != nil || !got.Key.Equal(c.Key) || !got.Cert.Equal(c.Cert) || !got.CA.Equal(c.CA) || got.Token != token.ID || got.Name() != "node1" {
		t.Fatalf("%+v, %v", got, err)
	}
	if same, _ := again.Current(); same != got {
		t.Error("the same credential is another pointer")
	}
	// Another process joins anew; who runs sees it.
	if err := k.Replace(w.credential(newJoiner(t, "node1", machineA), token)); err != nil {
		t.Fatal(err)
	}
	if now, err := again.Current(); err != nil || now.Key.Equal(c.Key) {
		t.Errorf("the old credential is still used, %v", err)
	}

	for name, text := range map[string]string{
		"empty": "", "garbage": "x", "without CA": string(encodePEM(c.Key, c.Cert)), "another's key": string(encodePEM(newJoiner(t, "x", machineA).key, c.Cert, c.CA)),
		"another CA": string(encodePEM(c.Key, c.Cert, newWorld(t).ca.cert)), "a CSR": "-----BEGIN X-----\nAAAA\n-----END X-----\n", "huge": strings.Repeat("x", maxPEM+1),
	} {
		if err := os.WriteFile(filepath.Join(dir, CredentialFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			got, err := again.Current()
			if _, ok := errors.AsType[*DamagedError](err); !ok || got != nil || !strings.Contains(err.Error(), CredentialFile) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if err := again.SetAside(errors.New("damaged")); err != nil {
		t.Fatal(err)
	}
	if got, err := again.Current(); got != nil || err != nil {
		t.Errorf("after it was set aside: %v, %v", got, err)
	}
}

// What the Host answers has to fit.
func TestNewCredentialRefuses(t *testing.T) {
	w := newWorld(t)
	token := w.token(time.Hour, 0)
	j := newJoiner(t, "node1", machineA)
	cert := w.mustJoin(j, token)
	server, err := w.ca.server(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]error{}
	_, cases["garbage"] = NewCredential(j.key, []byte("x"), w.ca.cert, token.ID)
	_, cases["another key"] = NewCredential(newJoiner(t, "x", machineA).key, cert.Raw, w.ca.cert, token.ID)
	_, cases["another CA"] = NewCredential(j.key, cert.Raw, newWorld(t).ca.cert, token.ID)
	_, cases["the server's"] = NewCredential(j.key, server.Certificate[0], w.ca.cert, token.ID)
	for name, err := range cases {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
