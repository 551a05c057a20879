// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// Credential is what a Runner has after it joined: a key, the certificate for it,
// and the CA of the Host, the only one that it believes. It does not change.
type Credential struct {
	Key   ed25519.PrivateKey
	Cert  *x509.Certificate
	CA    *x509.Certificate
	Token string // id of the token that it joined with
}

// NewKey draws a key for a credential.
func NewKey() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// NewCredential puts a credential together of the key and what the Host answered,
// and checks that it fits. ca is the Host's, by pin.
func NewCredential(key ed25519.PrivateKey, der []byte, ca *x509.Certificate, token string) (*Credential, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("the Host's answer holds no certificate: %w", err)
	}
	c := &Credential{Key: key, Cert: cert, CA: ca, Token: token}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("the certificate in the Host's answer is of no use: %w", err)
	}
	return c, nil
}

func (c *Credential) check() error {
	pub, ok := c.Cert.PublicKey.(ed25519.PublicKey)
	if !ok || !bytes.Equal(pub, c.Key.Public().(ed25519.PublicKey)) {
		return errors.New("the certificate is not for the key")
	}
	if err := verifyBy(c.CA, c.Cert, x509.ExtKeyUsageClientAuth, ""); err != nil {
		return err
	}
	if _, err := identityIn(c.Cert); err != nil {
		return errors.New("the certificate names no runner")
	}
	if c.Token != "" {
		return CheckTokenID(c.Token)
	}
	return nil
}

// Name is the runner's, as the Host wrote it.
func (c *Credential) Name() string { return c.Cert.Subject.CommonName }

// Fingerprint is that of the Host's CA.
func (c *Credential) Fingerprint() Fingerprint { return fingerprint(c.CA) }

// ClientTLS is the configuration for calls to the Host: it is the Host that has the
// CA, wherever it is, or a *PinError.
func (c *Credential) ClientTLS() *tls.Config {
	own := tls.Certificate{Certificate: [][]byte{c.Cert.Raw}, PrivateKey: c.Key, Leaf: c.Cert}
	t := pinned(c.Fingerprint())
	t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	return t
}

// JoinTLS is the configuration for a call to the Host that a token is of.
func (t Token) JoinTLS() *tls.Config { return pinned(t.CA) }

// pinned believes one CA, known by its fingerprint alone.
func pinned(want Fingerprint) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: ServerName,
		// The library's own check knows no fingerprints, and asks the clock, which
		// may be wrong. The one below replaces it.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := hostCA(cs.PeerCertificates, want)
			return err
		},
	}
}

// HostCA gives the CA's certificate of a connection that JoinTLS made.
func (t Token) HostCA(cs *tls.ConnectionState) (*x509.Certificate, error) {
	return hostCA(cs.PeerCertificates, t.CA)
}

// hostCA checks that a chain, leaf and CA, is that of the Host with that CA.
func hostCA(chain []*x509.Certificate, want Fingerprint) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("the machine that answers has no certificate")
	}
	ca := chain[len(chain)-1]
	if got := fingerprint(ca); got != want {
		return nil, &PinError{Want: want, Got: got}
	}
	if len(chain) != 2 {
		return nil, errors.New("the machine that answers has no certificate of its CA")
	}
	if err := ca.CheckSignatureFrom(ca); err != nil {
		return nil, err
	}
	return ca, verifyBy(ca, chain[0], x509.ExtKeyUsageServerAuth, ServerName)
}

const tokenLine = "Joined with the token "

func (c *Credential) encode() []byte {
	head := fmt.Sprintf("The credential of the kohaku runner %s: its key and certificate, and the Host's CA. Keep it secret.\n", c.Name())
	if c.Token != "" {
		head += tokenLine + c.Token + "\n"
	}
	return append([]byte(head), encodePEM(c.Key, c.Cert, c.CA)...)
}

// decodeCredential reads what encode wrote.
func decodeCredential(data []byte) (*Credential, error) {
	key, certs, err := decodePEM(data)
	if err != nil {
		return nil, err
	}
	if len(certs) != 2 {
		return nil, errors.New("it does not hold a certificate and a CA")
	}
	c := &Credential{Key: key, Cert: certs[0], CA: certs[1], Token: tokenIn(data)}
	if !c.CA.IsCA {
		return nil, errors.New("its second certificate is no CA's")
	}
	return c, c.check()
}

// tokenIn gives the token id in the text before the first block.
func tokenIn(data []byte) string {
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "-----") {
			break
		}
		if id, ok := strings.CutPrefix(line, tokenLine); ok {
			return strings.TrimSpace(id)
		}
	}
	return ""
}
