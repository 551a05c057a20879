// SPDX-License-Identifier: Apache-2.0

package reserve

// Kind says what sort of refusal an *Error is.
type Kind int

// The kinds of refusals.
const (
	BadRequest    Kind = iota + 1 // what was asked for can never be had
	UnknownRunner                 // there is no such runner
	NotYet                        // it may be had in a moment
	Taken                         // somebody has the address, or no address or place is left
	BadToken                      // the token is not one of this Host
	Gone                          // the token was good, its reservation has ended
	InUse                         // a container has the address
	Unwritable                    // the change could not be written down, and was not made
)

// Error is a refusal. Nothing was changed.
type Error struct {
	Kind Kind
	Text string // what is wrong
	Hint string // what to do; may be empty
	Err  error  // the system's answer, for Unwritable
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives the system's answer, if there was one.
func (e *Error) Unwrap() error { return e.Err }
