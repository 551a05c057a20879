// SPDX-License-Identifier: Apache-2.0

// Package conf turns the two settings files, host.toml and runner.toml, into
// validated typed settings, and computes the addressing plan of the overlay.
//
// Reading is strict. An unknown key, a wrong type, a value out of range or two
// values that contradict each other is a [Problem]; all problems of a file come
// back together in one [Error], each with its line, its dotted key, the value
// found and what is allowed. A key that is absent has the default that
// [DefaultHost] and [DefaultRunner] give.
//
// [Plan] is the addressing plan, written BASE/PREFIX/NODE_BITS/SUBNET_BITS: a
// pure function from a runner's id to its subnet, its gateway and the Host's
// address on it, and back. Nothing else in kohaku computes overlay addresses.
//
// The package does no I/O but reading the file it is told to read and looking
// whether a file exists ([HostPath], [RunnerPath]).
package conf
