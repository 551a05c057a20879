// SPDX-License-Identifier: Apache-2.0

// Package perf measures a path between two ends: throughput over TCP and UDP in
// either or both directions, loss, reordering and jitter, round-trip times, and
// new connections per second; together with what it cost the machine in
// processor time.
//
// Throughput is measured with iperf3's protocol (package perf/iperf), so either
// end may be a stock iperf3. Round trips and connection rate are our own
// extension of it: two of our ends agree on it while they exchange parameters,
// and a stock server is recognised and named.
//
// RunClient runs one test and returns its Result. Serve answers clients, one
// test at a time. A Result prints itself in iperf3's JSON (Result.JSON) and as
// lines for a person (Printer).
//
// A stream is served by a goroutine with a thread of its own and a blocking
// socket, which costs the scheduler no more than a thread of a C program; several
// unpaced TCP streams share threads (group.go). Buffers are allocated before the
// test starts, and nothing is allocated for a block or a datagram.
package perf
