// SPDX-License-Identifier: Apache-2.0

// Package trust says who may speak with whom in a cluster, and how that begins.
//
// The Host is its own certificate authority. Everything a Runner needs to begin is
// in a token: which one it is, a secret, and the fingerprint of the CA's key.
//
//	Runner                                             Host
//	  |  TLS 1.3, the Runner has no certificate          |
//	  |<------------ server certificate, CA -------------|
//	  |  the CA's key has the fingerprint in the token?  |
//	  |------------ join request ----------------------->|
//	  |  token id, name, machine id, CSR, all signed     |  signed by the token's key,
//	  |  with the token's key for this connection        |  for this connection?
//	  |<----------- certificate of that name ------------|  token alive, name free?
//
// From then on both ends have certificates of that CA and no other.
//
// What is kept where:
//
//   - The token's secret is the seed of an Ed25519 key. The Host keeps the public
//     half alone, so that its files let nobody join.
//   - A join request is signed together with a value that only the two ends of one
//     TLS connection have (RFC 9266, tls-exporter). A request that was recorded, or
//     passed on by somebody in between, is of no use on another connection.
//   - The Host has a list of the credentials that are valid, by the hash of their
//     key. A certificate that is not on it is worth nothing, whatever its
//     signature: leaving the list is how one is revoked.
//
// Clocks. No certificate depends on a date: they are valid from the year 2000 on
// and have no end (RFC 5280 section 4.1.2.5), so neither a Host nor a Runner whose
// clock is wrong is locked out. That keys are replaced all the same is the Host's
// care: it counts the time that it has been running and asks a Runner to renew a
// credential that is RenewAfter old; one that is ExpireAfter old is refused. A
// token's life is counted by the monotonic clock while the Host runs, and by the
// calendar over the time that it did not: see [Authority].
package trust
