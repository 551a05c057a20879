// SPDX-License-Identifier: Apache-2.0

package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// CallError is a call to the Host that did not end well. Its text says what was
// tried, where, what came back and what to do.
type CallError struct {
	Op         string // what was tried, such as "register with the Host"
	URL        string
	StatusCode int    // HTTP; 0 when there was no answer
	Message    string // what was answered
	Hint       string // what to do
	Err        error  // the cause when there was no usable answer
}

func (e *CallError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s at %s: ", e.Op, e.URL)
	switch {
	case e.StatusCode != 0 && e.Message != "":
		fmt.Fprintf(&b, "it answered %d: %s", e.StatusCode, e.Message)
	case e.StatusCode != 0:
		fmt.Fprintf(&b, "it answered %d %s", e.StatusCode, http.StatusText(e.StatusCode))
	default:
		fmt.Fprintf(&b, "%v", e.Err)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, " (%s)", e.Hint)
	}
	return b.String()
}

// Unwrap gives the cause, if there was one below HTTP.
func (e *CallError) Unwrap() error { return e.Err }

// IsNotFound reports whether err is a Host's answer that it does not know the
// runner: a heartbeat's sender then registers again.
func IsNotFound(err error) bool {
	call, ok := errors.AsType[*CallError](err)
	return ok && call.StatusCode == http.StatusNotFound
}

// Answered reports whether err is a refusal by the Host, as opposed to a Host that
// could not be reached or made no sense.
func Answered(err error) bool {
	call, ok := errors.AsType[*CallError](err)
	return ok && call.StatusCode != 0
}

// IsUnauthorized reports whether err is a Host's answer that the credential is
// missing or void: the machine has to join anew.
func IsUnauthorized(err error) bool {
	call, ok := errors.AsType[*CallError](err)
	return ok && call.StatusCode == http.StatusUnauthorized
}
