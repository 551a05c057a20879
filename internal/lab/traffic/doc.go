// SPDX-License-Identifier: Apache-2.0

// Package traffic generates traffic between the nodes of a lab and checks, byte
// for byte, what arrives: TCP streams, numbered UDP datagrams, ICMP echoes.
//
// A function that opens a socket opens it in the network namespace of the
// calling thread, so it is called from lab.Node's Do; what it returns may be
// used from anywhere. Sender and receiver run in one process, which lets a
// sender wait for its receiver without a protocol of their own.
package traffic
