// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"errors"
)

// Session is a value that only the two ends of one TLS connection can compute, and
// that no other connection has.
type Session [sha256.Size]byte

// sessionLabel is that of RFC 9266, tls-exporter.
const sessionLabel = "EXPORTER-Channel-Binding"

// SessionOf gives a connection's. The handshake is complete, and TLS 1.3.
func SessionOf(cs *tls.ConnectionState) (Session, error) {
	if cs == nil || !cs.HandshakeComplete || cs.Version < tls.VersionTLS13 {
		return Session{}, errors.New("this is not a TLS 1.3 connection")
	}
	exported, err := cs.ExportKeyingMaterial(sessionLabel, nil, sha256.Size)
	if err != nil {
		return Session{}, err
	}
	// What is exported could be used for something else; its hash, which is sent,
	// could not.
	return sha256.Sum256(exported), nil
}

// Claim is what a joining Runner says of itself.
type Claim struct {
	Name    string // canonical hostname
	Machine string // machine id
	CSR     []byte // PKCS #10, DER
}

// Proof shows that who makes a claim has the token, and makes it now, on this
// connection.
type Proof struct {
	TokenID   string
	Session   Session
	Signature []byte
}

// Prove signs a claim with the token for a connection.
func (t Token) Prove(c Claim, s Session) Proof {
	return Proof{TokenID: t.ID, Session: s, Signature: ed25519.Sign(t.key(), c.message(t.ID, s))}
}

// message is what is signed. Every part says how long it is, so that no two claims
// have the same one.
func (c Claim) message(tokenID string, s Session) []byte {
	var b bytes.Buffer
	b.WriteString("kohaku join, version 1\x00")
	b.Write(s[:])
	for _, part := range [][]byte{[]byte(tokenID), []byte(c.Name), []byte(c.Machine), c.CSR} {
		var length [4]byte
		binary.BigEndian.PutUint32(length[:], uint32(len(part)))
		b.Write(length[:])
		b.Write(part)
	}
	return b.Bytes()
}

// verify judges a proof. here is the session of the connection that it came by.
func (p Proof) verify(c Claim, verifier ed25519.PublicKey, here Session) error {
	if subtle.ConstantTimeCompare(p.Session[:], here[:]) != 1 {
		return ErrReplayed
	}
	if !ed25519.Verify(verifier, c.message(p.TokenID, p.Session), p.Signature) {
		return ErrWrongToken
	}
	return nil
}
