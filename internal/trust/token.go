// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
)

// Sizes of a token's parts, in bytes.
const (
	tokenIDSize     = 5 // 8 characters
	secretSize      = 16
	fingerprintSize = 20
	checkSize       = 4
)

const tokenPrefix = "kj1"

// base32Text is RFC 4648 section 6 in lower case: nothing in it needs quoting in a
// shell, and none of its characters look alike.
var base32Text = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Fingerprint tells one CA from another: the beginning of the SHA-256 of its public
// key (SubjectPublicKeyInfo, DER). At 160 bits nobody finds a second key with it.
type Fingerprint [fingerprintSize]byte

func (f Fingerprint) String() string { return base32Text.EncodeToString(f[:]) }

// Token is what a Runner joins with. It is a secret. In print it is
//
//	kj1-IDIDIDID-...64 characters...
//
// of which the last part holds the secret, the CA's fingerprint and a check sum
// over everything, in base 32. The zero Token is not valid.
type Token struct {
	ID     string // 8 characters of a-z2-7; no secret
	CA     Fingerprint
	secret [secretSize]byte
}

// newToken draws a token for a CA.
func newToken(ca Fingerprint) Token {
	var id [tokenIDSize]byte
	rand.Read(id[:])
	t := Token{ID: base32Text.EncodeToString(id[:]), CA: ca}
	rand.Read(t.secret[:])
	return t
}

// Reveal gives the token as a person copies it, with its secret.
func (t Token) Reveal() string {
	body := make([]byte, 0, secretSize+fingerprintSize+checkSize)
	body = append(body, t.secret[:]...)
	body = append(body, t.CA[:]...)
	body = append(body, tokenCheck(t.ID, body)...)
	return tokenPrefix + "-" + t.ID + "-" + base32Text.EncodeToString(body)
}

// String hides the secret, so that no log has it by mistake.
func (t Token) String() string { return tokenPrefix + "-" + t.ID + "-..." }

// GoString is String.
func (t Token) GoString() string { return t.String() }

// tokenCheck finds typing errors; it protects nothing.
func tokenCheck(id string, body []byte) []byte {
	sum := sha256.Sum256(append([]byte(tokenPrefix+id), body...))
	return sum[:checkSize]
}

// ErrToken is what a text that is no token is refused with.
var ErrToken = errors.New("that is not a whole join token: it begins with " + tokenPrefix +
	"- and is one word, as `kohaku token new` prints it")

// ParseToken reads a token as Reveal gives it. Space around it does not matter, nor
// does case.
func ParseToken(s string) (Token, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	rest, ok := strings.CutPrefix(s, tokenPrefix+"-")
	if !ok {
		return Token{}, ErrToken
	}
	id, text, ok := strings.Cut(rest, "-")
	if !ok || CheckTokenID(id) != nil {
		return Token{}, ErrToken
	}
	body, err := base32Text.DecodeString(text)
	// One to one, for whole groups of 5 bytes, which this is. Of its length both
	// sides are checked: DecodeString passes over line breaks, and a last character.
	const size = secretSize + fingerprintSize + checkSize
	if err != nil || len(body) != size || len(text) != base32Text.EncodedLen(size) {
		return Token{}, ErrToken
	}
	body, check := body[:secretSize+fingerprintSize], body[secretSize+fingerprintSize:]
	if string(tokenCheck(id, body)) != string(check) {
		return Token{}, fmt.Errorf("%w; one of its characters is wrong", ErrToken)
	}
	t := Token{ID: id}
	copy(t.secret[:], body)
	copy(t.CA[:], body[secretSize:])
	return t, nil
}

// CheckTokenID reports whether s can be the id of a token.
func CheckTokenID(s string) error {
	if b, err := base32Text.DecodeString(s); err != nil || len(b) != tokenIDSize || len(s) != 8 {
		return errors.New("a token's id has 8 characters of a-z and 2-7, as `kohaku token list` shows it")
	}
	return nil
}

// key derives the token's signing key. The way from secret to key is one-way, and
// the key is of no use for another token or CA.
func (t Token) key() ed25519.PrivateKey {
	seed, err := hkdf.Key(sha256.New, t.secret[:], t.CA[:], "kohaku join token "+t.ID, ed25519.SeedSize)
	if err != nil { // only for lengths beyond HKDF's reach
		panic(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// verifier is what the Host keeps of a token.
func (t Token) verifier() ed25519.PublicKey { return t.key().Public().(ed25519.PublicKey) }
