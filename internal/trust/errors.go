// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
)

// Why a token does not let a Runner in.
var (
	ErrReplayed   = errors.New("the join request was made for another connection: it was recorded and sent again, or passed on by a machine in between")
	ErrWrongToken = errors.New("wrong join token: the Host has none like it")
	ErrExpired    = errors.New("the join token has expired")
	ErrUsedUp     = errors.New("the join token is used up")
	ErrNoToken    = errors.New("there is no join token with that id")
)

// Why a credential is not accepted.
var (
	ErrForeign  = errors.New("the credential is of another Host's CA")
	ErrRevoked  = errors.New("the credential has been revoked")
	ErrReplaced = errors.New("the credential has been replaced by a newer one of the same runner")
	ErrStale    = errors.New("the credential has expired: it was not renewed for too long")
)

// ErrNotCSR refuses what is no request for a certificate that the CA would give.
var ErrNotCSR = errors.New("that is no certificate request with an Ed25519 key")

// ErrTooMany refuses a token beyond maxTokens.
var ErrTooMany = fmt.Errorf("there are %d join tokens already", maxTokens)

// MachineError refuses a second machine with a name that is taken.
type MachineError struct{ Name, Have, Got string }

func (e *MachineError) Error() string {
	return fmt.Sprintf("the name %q belongs to the machine %s; this is the machine %s", e.Name, e.Have, e.Got)
}

// StoreError says that a change could not be stored, and so was not made.
type StoreError struct{ Err error }

func (e *StoreError) Error() string {
	return "it could not be stored, so nothing was changed: " + e.Err.Error()
}

// Unwrap gives the file system's answer.
func (e *StoreError) Unwrap() error { return e.Err }

// PinError says that the machine at the other end is not the Host that was meant.
type PinError struct{ Want, Got Fingerprint }

func (e *PinError) Error() string {
	return fmt.Sprintf("the CA of the machine that answers is %s, not %s", e.Got, e.Want)
}
