// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"io"
	"time"

	"kohaku/internal/trust"
)

// Paths of the calls about joining. Those of tokens and PathRemove are answered on
// the Host's admin socket only.
const (
	PathJoin       = "/api/join"
	PathCredential = "/api/credential"
	PathRenew      = "/api/credential/renew"
	PathTokens     = "/api/tokens"          // followed by a slash and a token's id to revoke it
	PathRemove     = "/api/overlay/remove/" // followed by a hostname
)

// JoinRequest is the body of POST /api/join: a claim and its proof, see package
// trust. Byte strings are in base 64.
type JoinRequest struct {
	Token     string `json:"token"` // its id
	Hostname  string `json:"hostname"`
	MachineID string `json:"machine_id"`
	CSR       []byte `json:"csr"`     // PKCS #10, DER
	Session   []byte `json:"session"` // of the TLS connection
	Signature []byte `json:"signature"`
	Version   string `json:"version,omitempty"`
}

// JoinAnswer carries the Runner's certificate.
type JoinAnswer struct {
	RunnerName  string `json:"runner_name"`
	Certificate []byte `json:"certificate"` // DER
}

// RenewRequest is the body of POST /api/credential/renew.
type RenewRequest struct {
	CSR []byte `json:"csr"`
}

// RenewAnswer carries the new certificate.
type RenewAnswer struct {
	Certificate []byte `json:"certificate"`
}

// CredentialAnswer says whose credential a call was made with.
type CredentialAnswer struct {
	RunnerName string `json:"runner_name"`
	MachineID  string `json:"machine_id"`
}

// TokenRequest is the body of POST /api/tokens.
type TokenRequest struct {
	TTLSeconds float64 `json:"ttl_seconds,omitempty"` // 0: 24 hours
	Uses       int     `json:"uses,omitempty"`        // 0: any number
}

// TTL is TTLSeconds as a duration.
func (q TokenRequest) TTL() time.Duration {
	if q.TTLSeconds == 0 {
		return trust.DefaultTTL
	}
	return time.Duration(q.TTLSeconds * float64(time.Second))
}

// Token is a join token as the Host lists it.
type Token struct {
	ID      string    `json:"id"`
	Valid   bool      `json:"valid"`
	State   string    `json:"state"` // "valid", "expired", "used up"
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"` // 0: any number
	Used    int       `json:"used"`
}

// NewToken is the answer of POST /api/tokens, the only one that holds the secret.
type NewToken struct {
	Token
	Secret  string `json:"token"`
	Command string `json:"command"` // to be run on a Runner
}

// TokenList is the answer of GET /api/tokens.
type TokenList struct {
	Tokens []Token `json:"tokens"`
}

// TokenRevoked is the answer of DELETE /api/tokens/{id}.
type TokenRevoked struct {
	Revoked string `json:"revoked"`
}

// RemoveAnswer is the answer of POST /api/overlay/remove/{hostname}.
type RemoveAnswer struct {
	Removed       string `json:"removed"`
	HadCredential bool   `json:"had_credential"` // which is revoked now
	// RunnerID is the id that is free again, 0 when there was no allocation.
	RunnerID int `json:"runner_id"`
}

const (
	maxCSR       = 2048
	sessionSize  = len(trust.Session{})
	signatureLen = 64 // Ed25519, RFC 8032 section 5.1.6
)

// DecodeJoin reads and checks the body of a join. The hostname comes back in
// canonical form.
func DecodeJoin(r io.Reader) (JoinRequest, error) { return checked[JoinRequest](r) }

func (q *JoinRequest) check() error {
	if err := trust.CheckTokenID(q.Token); err != nil {
		return &FieldError{"token", err.Error()}
	}
	name, err := CanonicalHostname(q.Hostname)
	if err != nil {
		return &FieldError{"hostname", err.Error()}
	}
	q.Hostname = name
	if err := CheckMachineID(q.MachineID); err != nil {
		return &FieldError{"machine_id", err.Error()}
	}
	if err := checkCSR(q.CSR); err != nil {
		return err
	}
	if len(q.Session) != sessionSize {
		return &FieldError{"session", fmt.Sprintf("%d bytes, %d are expected", len(q.Session), sessionSize)}
	}
	if len(q.Signature) != signatureLen {
		return &FieldError{"signature", fmt.Sprintf("%d bytes, %d are expected", len(q.Signature), signatureLen)}
	}
	return checkText("version", q.Version, maxVersionText)
}

func checkCSR(csr []byte) error {
	if len(csr) == 0 || len(csr) > maxCSR {
		return &FieldError{"csr", fmt.Sprintf("%d bytes, 1 to %d are expected", len(csr), maxCSR)}
	}
	return nil
}

// Claim and Proof are the two halves of the request. It has been checked.
func (q JoinRequest) Claim() (trust.Claim, trust.Proof) {
	p := trust.Proof{TokenID: q.Token, Signature: q.Signature}
	copy(p.Session[:], q.Session)
	return trust.Claim{Name: q.Hostname, Machine: q.MachineID, CSR: q.CSR}, p
}

// DecodeRenew reads and checks the body of a renewal.
func DecodeRenew(r io.Reader) (RenewRequest, error) {
	var q RenewRequest
	if err := decode(r, &q); err != nil {
		return RenewRequest{}, err
	}
	return q, checkCSR(q.CSR)
}

// DecodeToken reads and checks the body of a request for a token.
func DecodeToken(r io.Reader) (TokenRequest, error) {
	var q TokenRequest
	if err := decode(r, &q); err != nil {
		return TokenRequest{}, err
	}
	// Compared as a number of seconds: a huge one has no duration.
	if q.TTLSeconds != 0 && !(q.TTLSeconds >= 1 && q.TTLSeconds <= trust.MaxTTL.Seconds()) {
		return TokenRequest{}, &FieldError{"ttl_seconds", fmt.Sprintf("%g is outside 1..%g", q.TTLSeconds, trust.MaxTTL.Seconds())}
	}
	return q, checkRange("uses", q.Uses, 0, trust.MaxUses)
}
