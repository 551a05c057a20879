// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kohaku/internal/trust"
)

// token makes one of a CA that nobody has.
func token(t testing.TB) trust.Token {
	t.Helper()
	a, err := trust.Open(trust.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := a.NewToken(time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func goodJoin(t testing.TB) JoinRequest {
	t.Helper()
	key, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := trust.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	p := token(t).Prove(trust.Claim{Name: "node1", Machine: strings.Repeat("a", 32), CSR: csr}, trust.Session{1})
	return JoinRequest{
		Token: p.TokenID, Hostname: "Node1", MachineID: strings.Repeat("a", 32), CSR: csr, Session: p.Session[:], Signature: p.Signature, Version: "v1",
	}
}

func TestDecodeJoin(t *testing.T) {
	good := goodJoin(t)
	text, err := json.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	q, err := DecodeJoin(bytes.NewReader(text))
	if err != nil || q.Hostname != "node1" {
		t.Fatalf("%+v, %v", q, err)
	}
	c, p := q.Claim()
	if c.Name != "node1" || !bytes.Equal(c.CSR, good.CSR) || p.TokenID != good.Token || p.Session != (trust.Session{1}) || !bytes.Equal(p.Signature, good.Signature) {
		t.Errorf("%+v, %+v", c, p)
	}
	for field, spoil := range map[string]func(*JoinRequest){
		"token":      func(q *JoinRequest) { q.Token = "x" },
		"hostname":   func(q *JoinRequest) { q.Hostname = "a b" },
		"machine_id": func(q *JoinRequest) { q.MachineID = "" },
		"csr":        func(q *JoinRequest) { q.CSR = make([]byte, maxCSR+1) },
		"session":    func(q *JoinRequest) { q.Session = q.Session[:31] },
		"signature":  func(q *JoinRequest) { q.Signature = nil },
		"version":    func(q *JoinRequest) { q.Version = "\x1b[2J" },
	} {
		q := good
		spoil(&q)
		text, err := json.Marshal(q)
		if err != nil {
			t.Fatal(err)
		}
		_, err = DecodeJoin(bytes.NewReader(text))
		if e, ok := errors.AsType[*FieldError](err); !ok || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := DecodeRenew(strings.NewReader(`{"csr":""}`)); err == nil {
		t.Error("a renewal without a request was taken")
	}
	for text, fine := range map[string]bool{
		`{}`: true, `{"ttl_seconds":1,"uses":1}`: true, `{"ttl_seconds":0.5}`: false, `{"ttl_seconds":-1}`: false, `{"ttl_seconds":1e300}`: false,
		`{"uses":-1}`: false, `{"uses":1e9}`: false, `[]`: false,
	} {
		if _, err := DecodeToken(strings.NewReader(text)); (err == nil) != fine {
			t.Errorf("%s: %v", text, err)
		}
	}
	if (TokenRequest{}).TTL() != trust.DefaultTTL || (TokenRequest{TTLSeconds: 1.5}).TTL() != 1500*time.Millisecond {
		t.Error("TTL")
	}
}

func FuzzDecodeJoin(f *testing.F) {
	text, err := json.Marshal(goodJoin(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	for _, s := range []string{"{}", `{"csr":"!"}`, `{"csr":null,"session":[1]}`, `{"ttl_seconds":1e400}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if q, err := DecodeJoin(bytes.NewReader(data)); err == nil {
			c, p := q.Claim()
			if name, err := CanonicalHostname(c.Name); err != nil || name != c.Name || CheckMachineID(c.Machine) != nil || len(c.CSR) > maxCSR || len(p.Signature) != signatureLen {
				t.Fatalf("%+v, %+v", c, p)
			}
		}
		if q, err := DecodeToken(bytes.NewReader(data)); err == nil {
			if ttl := q.TTL(); ttl < time.Second || ttl > trust.MaxTTL || q.Uses < 0 {
				t.Fatalf("%+v", q)
			}
		}
		_, _ = DecodeRenew(bytes.NewReader(data))
	})
}

func TestSocketClient(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, `{"status":"ok"}`)
	}))
	server.Listener = l
	server.Start()
	defer server.Close()
	if err := client(t, "unix:"+path).Health(t.Context()); err != nil {
		t.Error(err)
	}
	err = client(t, "unix:"+path+"x").Health(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no Host runs on this machine") || !strings.Contains(err.Error(), "unix:"+path+"x") {
		t.Errorf("no socket: %v", err)
	}
	if _, err := NewClient("unix:"); err == nil {
		t.Error("an empty path was taken")
	}
}

// Who has a credential does not go without it, and who has none is told how to get
// one.
func TestNoDowngrade(t *testing.T) {
	a, err := trust.Open(trust.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	config, err := a.ServerTLS(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, `{"status":"ok"}`) })
	secure := httptest.NewUnstartedServer(answer)
	secure.TLS = config
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(answer)
	defer plain.Close()

	dir := t.TempDir()
	keeper := trust.NewKeeper(dir, nil)
	addr := func(s *httptest.Server) string { return s.Listener.Addr().String() }
	with := func(at string) *Client {
		c, err := NewClient(at, WithCredential(keeper))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	// No credential yet: plain.
	c := with(addr(plain))
	if err := c.Health(t.Context()); err != nil {
		t.Error(err)
	}
	err = with(addr(secure)).Health(t.Context())
	if !IsUnauthorized(err) || !strings.Contains(err.Error(), "kohaku token new") {
		t.Errorf("TLS without a credential: %v", err)
	}

	token, _, err := a.NewToken(time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	key, err := keeper.JoinKey(token)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := trust.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	claim := trust.Claim{Name: "node1", Machine: strings.Repeat("a", 32), CSR: csr}
	der, err := a.Admit(token.Prove(claim, trust.Session{}), trust.Session{}, claim, func(bool) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.NewCredential(key, der, config.Certificates[0].Leaf, token.ID); err == nil {
		t.Error("the server's certificate passed for the CA's")
	}
	ca, err := x509.ParseCertificate(config.Certificates[0].Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	credential, err := trust.NewCredential(key, der, ca, token.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Replace(credential); err != nil {
		t.Fatal(err)
	}
	// The same client takes it up.
	err = c.Health(t.Context())
	if err == nil || !strings.Contains(err.Error(), "plain HTTP") || !strings.Contains(err.Error(), trust.CredentialFile) {
		t.Errorf("plain with a credential: %v", err)
	}
	if err := with(addr(secure)).Health(t.Context()); err != nil {
		t.Error(err)
	}
	// But for who asks for it by name.
	if err := with("http://" + addr(plain)).Health(t.Context()); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, trust.CredentialFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = with(addr(secure)).Health(t.Context())
	if err == nil || !strings.Contains(err.Error(), "damaged") || !strings.Contains(err.Error(), "kohaku token new") {
		t.Errorf("a damaged credential: %v", err)
	}
}
