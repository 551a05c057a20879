// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"encoding/binary"
	"time"
)

// Header lengths of a test datagram. The header stands at the start of the UDP
// payload, all fields big-endian:
//
//	 0       4       8       12       16
//	+-------+-------+-------+--------+
//	|  sec  |  usec | sequence       |    32-bit counters: 12 bytes
//	+-------+-------+----------------+
//	|  sec  |  usec | sequence       |    64-bit counters: 16 bytes
//	+-------+-------+----------------+
const (
	HeaderLen32 = 12
	HeaderLen64 = 16
)

// PutHeader writes the time since an epoch of the sender's choice and a
// sequence number, which counts from 1. b must have HeaderLen64 bytes, or
// HeaderLen32 without wide. It does not allocate.
func PutHeader(b []byte, sent time.Duration, seq uint64, wide bool) {
	sec := sent / time.Second
	binary.BigEndian.PutUint32(b, uint32(sec))
	binary.BigEndian.PutUint32(b[4:], uint32((sent-sec*time.Second)/time.Microsecond))
	if wide {
		binary.BigEndian.PutUint64(b[8:], seq)
		return
	}
	binary.BigEndian.PutUint32(b[8:], uint32(seq))
}

// ParseHeader reads what PutHeader wrote; ok is false when b is too short or
// the microseconds are impossible.
func ParseHeader(b []byte, wide bool) (sent time.Duration, seq uint64, ok bool) {
	if len(b) < HeaderLen32 || wide && len(b) < HeaderLen64 {
		return 0, 0, false
	}
	usec := binary.BigEndian.Uint32(b[4:])
	if usec >= 1e6 {
		return 0, 0, false
	}
	sent = time.Duration(binary.BigEndian.Uint32(b))*time.Second + time.Duration(usec)*time.Microsecond
	if wide {
		return sent, binary.BigEndian.Uint64(b[8:]), true
	}
	return sent, uint64(binary.BigEndian.Uint32(b[8:])), true
}

// The first datagram of a UDP stream and its answer. iperf3 writes them in the
// byte order of the machine, in two generations of values.
const (
	connectMessage       = 0x36373839
	connectReply         = 0x39383736
	legacyConnectMessage = 123456789
	legacyConnectReply   = 987654321
)

// ConnectMessage is what a client sends first on a UDP stream.
func ConnectMessage() []byte {
	return binary.NativeEndian.AppendUint32(nil, connectMessage)
}

// ConnectReply gives the server's answer to a first datagram, in the generation
// and byte order that the client used; ok is false when b is none.
func ConnectReply(b []byte) (reply []byte, ok bool) {
	if len(b) != 4 {
		return nil, false
	}
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.(binary.ByteOrder).Uint32(b) {
		case connectMessage:
			return order.AppendUint32(nil, connectReply), true
		case legacyConnectMessage:
			return order.AppendUint32(nil, legacyConnectReply), true
		}
	}
	return nil, false
}

// IsConnectReply reports whether b answers a ConnectMessage, whatever the
// server's age and byte order.
func IsConnectReply(b []byte) bool {
	if len(b) != 4 {
		return false
	}
	for _, v := range []uint32{binary.LittleEndian.Uint32(b), binary.BigEndian.Uint32(b)} {
		if v == connectReply || v == legacyConnectReply {
			return true
		}
	}
	return false
}
