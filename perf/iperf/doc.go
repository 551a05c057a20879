// SPDX-License-Identifier: Apache-2.0

// Package iperf holds the bytes of iperf3's protocol: the control
// connection's states, cookie and length-prefixed JSON, the header of a UDP
// test datagram, and the receiver's accounting of loss, reordering and jitter.
//
// It does no networking of its own: everything works on io.Reader, io.Writer
// and byte slices, so that each parser can be fuzzed. Nothing that it reads is
// trusted; every size and number that a peer sends has a bound.
//
// The protocol has no specification but its implementation. What is written
// down here was learned from iperf 3.12 (src/iperf_api.c, iperf_client_api.c,
// iperf_server_api.c, iperf_udp.c) and from what travels on the wire.
//
//	client                                server
//	connect, cookie ------------------->
//	                <------------------- PARAM_EXCHANGE   (or ACCESS_DENIED: busy)
//	JSON parameters ------------------->
//	                <------------------- CREATE_STREAMS   (or SERVER_ERROR)
//	one connection and cookie for each TCP stream,
//	one datagram and its answer for each UDP stream
//	                <------------------- TEST_START
//	                <------------------- TEST_RUNNING
//	        ... data, in the agreed directions ...
//	TEST_END        ------------------->
//	                <------------------- EXCHANGE_RESULTS
//	JSON results    ------------------->
//	                <------------------- JSON results
//	                <------------------- DISPLAY_RESULTS
//	IPERF_DONE      ------------------->
package iperf
