// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"

	"kohaku/internal/statefile"
)

// CAFile is the file in the Host's state directory with the CA's certificate and
// key. Whoever can read it can be the Host, and every Runner.
const CAFile = "ca.pem"

const maxPEM = 64 << 10

// ca is a certificate authority: its certificate and the key to it.
type ca struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

// openCA reads the CA, or makes one where there is none. One that cannot be used
// is set aside first: then all Runners have to join again, which the log says.
func openCA(dir string, log *slog.Logger) (c ca, isNew bool, err error) {
	path := filepath.Join(dir, CAFile)
	data, err := statefile.Read(path, maxPEM)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && !errors.Is(err, statefile.ErrTooLarge):
		return ca{}, false, fmt.Errorf("read the Host's CA: %w (state_dir in the [host] section must be a directory that the Host may read and write)", err)
	default:
		if err == nil {
			if c, err = decodeCA(data); err == nil {
				return c, false, nil
			}
		}
		aside, asideErr := statefile.SetAside(path)
		if asideErr != nil {
			return ca{}, false, fmt.Errorf("the Host's CA is damaged: %w; %w", err, asideErr)
		}
		log.Error("the Host's CA is damaged and a new one is made: every runner has to join again (kohaku token new). "+
			"If you have a copy of the file, put it back and start again", "file", path, "set_aside", aside, "error", err)
	}
	if c, err = newCA(); err != nil {
		return ca{}, false, fmt.Errorf("make the Host's CA: %w", err)
	}
	if err := statefile.Create(path, c.encode(), 0o600); err != nil {
		return ca{}, false, fmt.Errorf("keep the Host's CA: %w (state_dir in the [host] section must be a directory that the Host may write)", err)
	}
	return c, true, nil
}

func newCA() (ca, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return ca{}, err
	}
	cert, err := sign(caTemplate(), nil, pub, key)
	return ca{cert, key}, err
}

func (c ca) encode() []byte {
	return append([]byte("The CA of this kohaku Host, and its key. Keep it secret, and keep a copy.\n"), encodePEM(c.key, c.cert)...)
}

func decodeCA(data []byte) (ca, error) {
	key, certs, err := decodePEM(data)
	if err != nil {
		return ca{}, err
	}
	if len(certs) != 1 || !certs[0].IsCA {
		return ca{}, errors.New("it does not hold one CA certificate")
	}
	if err := certs[0].CheckSignatureFrom(certs[0]); err != nil {
		return ca{}, err
	}
	return ca{certs[0], key}, nil
}

// server makes the certificate of the Host's API.
func (c ca) server(names []string, addrs []netip.Addr) (tls.Certificate, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := sign(serverTemplate(names, addrs), c.cert, pub, c.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{cert.Raw, c.cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

const (
	pemKey  = "PRIVATE KEY" // PKCS #8, RFC 5958
	pemCert = "CERTIFICATE"
)

func encodePEM(key ed25519.PrivateKey, certs ...*x509.Certificate) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil { // not of an Ed25519 key
		panic(err)
	}
	out := pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: c.Raw})...)
	}
	return out
}

// decodePEM reads one key and certificates, the first of them for that key.
func decodePEM(data []byte) (key ed25519.PrivateKey, certs []*x509.Certificate, err error) {
	for len(certs) < 4 {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		switch {
		case block.Type == pemKey && key == nil:
			any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			var ok bool
			if key, ok = any.(ed25519.PrivateKey); !ok {
				return nil, nil, errors.New("the key is no Ed25519 key")
			}
		case block.Type == pemCert:
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, c)
		default:
			return nil, nil, fmt.Errorf("it holds a block %q that does not belong there", block.Type)
		}
	}
	if key == nil {
		return nil, nil, errors.New("it holds no key")
	}
	if len(certs) > 0 {
		if pub, ok := certs[0].PublicKey.(ed25519.PublicKey); !ok || !bytes.Equal(pub, key.Public().(ed25519.PublicKey)) {
			return nil, nil, errors.New("the certificate is not for the key")
		}
	}
	return key, certs, nil
}
