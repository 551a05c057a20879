// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"encoding/binary"
	"fmt"
	"io"
	"syscall"
)

// Code is a number of iperf3's own error list (src/iperf_api.h), as it travels
// after a ServerError state.
type Code uint32

// The codes that this package's callers send or explain. They are stable
// between iperf3's releases.
const (
	CodeDuration     Code = 5
	CodeStreams      Code = 6
	CodeBlockSize    Code = 7
	CodeBufferSize   Code = 8
	CodeOmit         Code = 12
	CodeUnsupported  Code = 13
	CodeUDPBlockSize Code = 20
	CodeTotalRate    Code = 27
	CodeListen       Code = 102
	CodeRecvParams   Code = 114
	CodeRecvResults  Code = 117
	CodeAuth         Code = 142
	CodeNoMessage    Code = 144
	CodeCreateStream Code = 200
	CodeStreamAccept Code = 204
)

var codeTexts = map[Code]string{
	CodeDuration:     "the test's duration is out of range",
	CodeStreams:      "the number of parallel streams is out of range",
	CodeBlockSize:    "the block size is out of range",
	CodeBufferSize:   "the socket buffer size is out of range",
	CodeOmit:         "the time to omit is out of range",
	CodeUnsupported:  "not implemented by this server",
	CodeUDPBlockSize: "the UDP block size is out of range",
	CodeTotalRate:    "the requested rate is above the server's limit",
	CodeListen:       "the server could not listen for streams",
	CodeRecvParams:   "the server could not read the parameters",
	CodeRecvResults:  "the server could not read the results",
	CodeAuth:         "the server asks for a login",
	CodeNoMessage:    "the server received no data for too long",
	CodeCreateStream: "the server could not create a stream",
	CodeStreamAccept: "the server could not accept a stream",
}

// RemoteError is what a server says after a ServerError state.
type RemoteError struct {
	Code  Code
	Errno syscall.Errno // 0: the server gave none
}

// Error says the code in words, and the number where it has none.
func (e *RemoteError) Error() string {
	text, ok := codeTexts[e.Code]
	if !ok {
		text = "error " + fmt.Sprint(uint32(e.Code)) + " of iperf3's list"
	}
	if e.Errno != 0 {
		return fmt.Sprintf("the server refused the test: %s (%v)", text, e.Errno)
	}
	return "the server refused the test: " + text
}

// WriteServerError sends the ServerError state, a code and an errno.
func WriteServerError(w io.Writer, e *RemoteError) error {
	state := ServerError
	b := make([]byte, 0, 9)
	b = append(b, byte(state))
	b = binary.BigEndian.AppendUint32(b, uint32(e.Code))
	b = binary.BigEndian.AppendUint32(b, uint32(e.Errno))
	_, err := w.Write(b)
	return err
}

// ReadServerError reads the two numbers that follow a ServerError state.
func ReadServerError(r io.Reader) (*RemoteError, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, fmt.Errorf("reading the server's error: %w", err)
	}
	return &RemoteError{
		Code:  Code(binary.BigEndian.Uint32(b[:4])),
		Errno: syscall.Errno(binary.BigEndian.Uint32(b[4:])),
	}, nil
}
