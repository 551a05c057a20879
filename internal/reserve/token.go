// SPDX-License-Identifier: Apache-2.0

package reserve

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// A token is, in base64url without padding and behind tokenPrefix,
//
//	| key id, 8 bytes | HMAC-SHA-256 (RFC 2104), 32 bytes | claims in JSON |
//
// The key id is a hash of the key and tells tokens of other Hosts from spoiled
// ones of this. The HMAC is over tokenDomain, the key id and the claims.
const (
	tokenPrefix = "kohaku-ip-"
	tokenDomain = "kohaku address reservation 1\x00"
	keyIDLen    = 8
	maxToken    = 640
)

// Key signs tokens. It is secret.
type Key [32]byte

func newKey() (k Key) {
	rand.Read(k[:]) // never fails
	return k
}

func (k Key) id() [keyIDLen]byte {
	sum := sha256.Sum256(append([]byte("kohaku reservation key id\x00"), k[:]...))
	return [keyIDLen]byte(sum[:])
}

// ID names a reservation, among all that were and will be.
type ID [12]byte

func newID() (id ID) {
	rand.Read(id[:])
	return id
}

// String gives hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is encoding.TextMarshaler's.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is encoding.TextUnmarshaler's.
func (id *ID) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(id) {
		return fmt.Errorf("%q is not the id of a reservation", text)
	}
	*id = ID(b)
	return nil
}

// claims are what a token says.
type claims struct {
	ID     ID         `json:"id"`
	Runner string     `json:"runner"`
	Addr   netip.Addr `json:"ip"`
	Name   string     `json:"name,omitempty"`
	// Ends is when the lease ends if nobody uses it, by the wall clock (Unix, s).
	// It is for the message about a reservation that has ended, and for people:
	// the lease itself does not depend on that clock.
	Ends int64 `json:"exp"`
}

// sign makes a token.
func (k Key) sign(c claims) string {
	body, err := json.Marshal(c)
	if err != nil {
		panic("reserve: " + err.Error()) // there is nothing in claims that could fail
	}
	id := k.id()
	raw := append(id[:], k.mac(body)...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(raw, body...))
}

func (k Key) mac(body []byte) []byte {
	id := k.id()
	m := hmac.New(sha256.New, k[:])
	m.Write([]byte(tokenDomain))
	m.Write(id[:])
	m.Write(body)
	return m.Sum(nil)
}

// verify reads a token. Nothing in it is looked at before its HMAC is right.
func (k Key) verify(token string) (claims, error) {
	bad := func(text, hint string) (claims, error) {
		return claims{}, &Error{Kind: BadToken, Text: text, Hint: hint}
	}
	const whole = "give the whole token, as `kohaku node ip-reserve` printed it"
	text, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok || len(token) > maxToken {
		return bad("that is not a token of a reservation", whole)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) < keyIDLen+sha256.Size || strings.ContainsAny(text, "\r\n") {
		return bad("the token is damaged: it is cut, or has characters that no token has", whole)
	}
	id := k.id()
	if subtle.ConstantTimeCompare(raw[:keyIDLen], id[:]) != 1 {
		return bad("the token was made by another Host, or by this one before its state was lost",
			"release it at the Host that made it; without its token it ends by itself when its time is over")
	}
	body := raw[keyIDLen+sha256.Size:]
	if !hmac.Equal(raw[keyIDLen:keyIDLen+sha256.Size], k.mac(body)) {
		return bad("the token has been changed: its signature is wrong", whole)
	}
	var c claims
	if err := json.Unmarshal(body, &c); err != nil {
		return bad("the token is signed by this Host, but says nothing that this version understands", "")
	}
	return c, nil
}

// ended is the refusal of a good token whose reservation is no more.
func (c claims) ended(now time.Time) error {
	end := time.Unix(c.Ends, 0)
	text := fmt.Sprintf("the reservation of %s on %s was released, or has ended with its Runner's allocation", c.Addr, c.Runner)
	if !now.Before(end) {
		text = fmt.Sprintf("the reservation of %s on %s has expired (the token says at %s)", c.Addr, c.Runner, end.UTC().Format(time.RFC3339))
	}
	return &Error{Kind: Gone, Text: text, Hint: "nothing is to be released; reserve an address anew if one is needed: kohaku node ip-reserve " + c.Runner}
}
