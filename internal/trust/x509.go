// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// ServerName is the name in the Host's certificate that its Runners look for. It
// is the same at every address.
const ServerName = "kohaku-host"

// Certificates are valid whatever a clock says, see the package comment.
var (
	notBefore = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	notAfter  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC) // RFC 5280 section 4.1.2.5
	// anytime is the time at which certificates are judged.
	anytime = notBefore.AddDate(1, 0, 0)
)

// KeyID is the SHA-256 of a public key (SubjectPublicKeyInfo, DER).
type KeyID [sha256.Size]byte

// MarshalText writes it in hexadecimal.
func (k KeyID) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(k[:])), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *KeyID) UnmarshalText(text []byte) error {
	if len(text) != 2*len(k) {
		return errors.New("a key's id has 64 hexadecimal digits")
	}
	_, err := hex.Decode(k[:], text)
	return err
}

func keyID(c *x509.Certificate) KeyID { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func fingerprint(ca *x509.Certificate) (f Fingerprint) {
	id := keyID(ca)
	copy(f[:], id[:])
	return f
}

// serial draws a certificate's number (RFC 5280 section 4.1.2.2: positive, at most
// 20 bytes).
func serial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

// sign makes a certificate of template for pub. A nil parent: self-signed.
func sign(template, parent *x509.Certificate, pub ed25519.PublicKey, key ed25519.PrivateKey) (*x509.Certificate, error) {
	template.SerialNumber, template.NotBefore, template.NotAfter = serial(), notBefore, notAfter
	template.BasicConstraintsValid = true
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func caTemplate() *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "kohaku CA"}, IsCA: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
}

func serverTemplate(names []string, addrs []netip.Addr) *x509.Certificate {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: ServerName}, DNSNames: append([]string{ServerName}, names...),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, a := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
	}
	return t
}

// Identity is who has a credential.
type Identity struct {
	Name    string // canonical hostname
	Machine string // machine id
	Key     KeyID
	issue   uint64 // the higher, the later
}

// runnerTemplate writes an identity into a certificate: the name as CN, machine id
// and issue as serialNumber (RFC 4519 section 2.31: of a device), so that openssl
// shows them.
func runnerTemplate(id Identity) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{
			CommonName: id.Name, SerialNumber: id.Machine, OrganizationalUnit: []string{"runner", "issue " + new(big.Int).SetUint64(id.issue).String()},
		},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// identityIn reads what runnerTemplate wrote, of a certificate whose signature was
// verified.
func identityIn(c *x509.Certificate) (Identity, error) {
	id := Identity{Name: c.Subject.CommonName, Machine: c.Subject.SerialNumber, Key: keyID(c)}
	for _, unit := range c.Subject.OrganizationalUnit {
		if digits, ok := cutIssue(unit); ok {
			n, ok := new(big.Int).SetString(digits, 10)
			if !ok || !n.IsUint64() {
				return Identity{}, ErrForeign
			}
			id.issue = n.Uint64()
		}
	}
	if !plain(id.Name) || !plain(id.Machine) {
		return Identity{}, ErrForeign
	}
	return id, nil
}

func cutIssue(unit string) (string, bool) {
	const prefix = "issue "
	if len(unit) <= len(prefix) || unit[:len(prefix)] != prefix {
		return "", false
	}
	return unit[len(prefix):], true
}

// verifyBy checks that ca signed c, for that use and name ("": any). Dates do not
// matter.
func verifyBy(ca, c *x509.Certificate, use x509.ExtKeyUsage, name string) error {
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := c.Verify(x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), DNSName: name, KeyUsages: []x509.ExtKeyUsage{use}, CurrentTime: anytime})
	return err
}

// NewCSR makes a request for a certificate of key's public half. The CA decides
// what stands in the certificate; the request carries the key alone.
func NewCSR(key ed25519.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// maxCSR bounds a request in bytes; NewCSR makes about 150.
const maxCSR = 2048

// keyOf gives the key that a CSR is for, of which its sender has the private half.
func keyOf(csr []byte) (ed25519.PublicKey, error) {
	if len(csr) > maxCSR {
		return nil, ErrNotCSR
	}
	r, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, ErrNotCSR
	}
	pub, ok := r.PublicKey.(ed25519.PublicKey)
	if !ok || r.CheckSignature() != nil {
		return nil, ErrNotCSR
	}
	return pub, nil
}

// maxText bounds names and machine ids in bytes.
const maxText = 64

// plain reports whether s can be a name or a machine id.
func plain(s string) bool {
	if s == "" || len(s) > maxText {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.') {
			return false
		}
	}
	return true
}
