// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"strings"
)

// Exit statuses. `kohaku help exit-codes` prints the same list from exitCodes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitUnhealthy   = 3
	exitConfig      = 78 // EX_CONFIG of sysexits.h: systemd names it, and units list it in RestartPreventExitStatus=
	exitInterrupted = 130
)

const exitCodes = `Every command ends with one of these:

    0  what was asked for was done, and what was looked at is well
    1  it could not be done: the Host does not answer, the kernel refused, ...
    2  the command line is wrong: unknown flag, missing argument, value out of range
    3  it was looked at, and it is not well: the overlay is off, a runner is
       inactive, a checked file has mistakes, a step of the demo failed
   78  a configuration file is wrong; starting again will not help before it is
       changed (systemd: RestartPreventExitStatus=78)
  130  interrupted by Ctrl-C before it was finished

A daemon or a tunnel that is told to stop (SIGTERM, SIGINT) and stops ends with 0.
With --json the exit status is the same.`

// failure is an error that a person meets. Its three parts become three lines:
// what was tried, what the kernel or the peer answered, what to do next.
type failure struct {
	tried string // "read the overlay's status from http://..."; completes "could not ..."
	cause error  // the answer, nil where there was none
	next  string // one or more lines, empty where nobody knows
	code  int    // exit status; 0 means exitFailure
}

func (f *failure) Error() string {
	if f.cause == nil {
		return "could not " + f.tried
	}
	return "could not " + f.tried + ": " + f.cause.Error()
}

func (f *failure) Unwrap() error { return f.cause }

// usageError is a mistake in the command line.
type usageError struct {
	command string // path of the command whose help explains it
	err     error
}

func (u *usageError) Error() string { return u.err.Error() }
func (u *usageError) Unwrap() error { return u.err }

func usagef(command, format string, args ...any) error {
	return &usageError{command, fmt.Errorf(format, args...)}
}

// errUnhealthy ends a command whose printed result says what is not well;
// errInterrupted one that a person stopped.
var (
	errUnhealthy   = &silent{exitUnhealthy}
	errInterrupted = &silent{exitInterrupted}
)

// silent ends a command with a status and no message: all was printed already.
type silent struct{ code int }

func (*silent) Error() string { return "already reported" }

// report prints err by the rules of output.go and returns the exit status.
func report(p *printer, err error) int {
	var (
		f *failure
		u *usageError
		s *silent
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &s):
		return s.code
	case errors.As(err, &u):
		p.linef("%s %s", p.in(red, "kohaku:"), strings.TrimRight(u.Error(), "\n"))
		p.linef("  next: %s --help", u.command)
		return exitUsage
	case errors.As(err, &f):
		p.linef("%s could not %s", p.in(red, "kohaku:"), f.tried)
		if f.cause != nil {
			p.linef("%s", labelled("  answer: ", f.cause.Error()))
		}
		if f.next != "" {
			p.linef("%s", labelled("  next: ", f.next))
		}
		if f.code != 0 {
			return f.code
		}
		return exitFailure
	default:
		p.linef("%s %v", p.in(red, "kohaku:"), err)
		return exitFailure
	}
}

// labelled puts a label before the first line and aligns the others with it.
func labelled(label, text string) string {
	pad := strings.Repeat(" ", len(label))
	return label + strings.TrimPrefix(block(pad, text), pad)
}
