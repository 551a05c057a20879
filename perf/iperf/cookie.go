// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"io"
)

// CookieSize is the length of a cookie on the wire: 36 characters and a zero byte.
const CookieSize = 37

// Cookie names one test. The client makes it up and sends it first on the
// control connection and on every TCP stream, so that the server can tell the
// streams of the running test from strangers.
type Cookie [CookieSize]byte

// ErrCookie tells that what came first on a connection is no cookie: the peer
// does not speak this protocol.
var ErrCookie = errors.New("no iperf3 cookie: the peer speaks another protocol")

const cookieAlphabet = "abcdefghijklmnopqrstuvwxyz234567"

// NewCookie returns a random cookie.
func NewCookie() Cookie {
	var c Cookie
	rand.Read(c[:CookieSize-1])
	for i := range c[:CookieSize-1] {
		c[i] = cookieAlphabet[int(c[i])%len(cookieAlphabet)]
	}
	return c
}

// ReadCookie reads one cookie and checks its form. Old clients send a host name
// and a time in it, so any printable character is accepted.
func ReadCookie(r io.Reader) (Cookie, error) {
	var c Cookie
	if _, err := io.ReadFull(r, c[:]); err != nil {
		return Cookie{}, err
	}
	if c[CookieSize-1] != 0 {
		return Cookie{}, ErrCookie
	}
	for i, b := range c[:CookieSize-1] {
		if b == 0 && i >= 16 {
			// A shorter cookie is padded with zeroes.
			for _, rest := range c[i:] {
				if rest != 0 {
					return Cookie{}, ErrCookie
				}
			}
			break
		}
		if b < 0x20 || b > 0x7e {
			return Cookie{}, ErrCookie
		}
	}
	return c, nil
}

// Equal compares in constant time.
func (c Cookie) Equal(d Cookie) bool { return subtle.ConstantTimeCompare(c[:], d[:]) == 1 }

// String gives the cookie without its terminating zeroes.
func (c Cookie) String() string {
	for i, b := range c {
		if b == 0 {
			return string(c[:i])
		}
	}
	return string(c[:])
}
