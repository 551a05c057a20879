// SPDX-License-Identifier: Apache-2.0

package iperf

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

const (
	// MaxParams bounds the parameters' JSON, in bytes; iperf3 itself allows this much.
	MaxParams = 8 << 10
	// MaxResults bounds the results' JSON, in bytes. A stock server may put its
	// whole output in it when asked to.
	MaxResults = 2 << 20
)

// SizeError tells that a peer announced a JSON text of an unacceptable size.
type SizeError struct{ Size, Max uint32 }

// Error names both sizes.
func (e *SizeError) Error() string {
	return fmt.Sprintf("the peer announces %d bytes of JSON, at most %d are allowed", e.Size, e.Max)
}

// ReadFrame reads a 4-byte big-endian length and that many bytes. It never
// allocates more than what has really arrived, rounded up, nor more than max.
func ReadFrame(r io.Reader, max uint32) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("reading the length of the peer's JSON: %w", err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > max {
		return nil, &SizeError{Size: n, Max: max}
	}
	// Grown in steps: a peer that announces the most and sends nothing costs little.
	buf := make([]byte, 0, min(n, 16<<10))
	for uint32(len(buf)) < n {
		step := min(n-uint32(len(buf)), 16<<10)
		at := len(buf)
		buf = append(buf, make([]byte, step)...)
		if _, err := io.ReadFull(r, buf[at:]); err != nil {
			return nil, fmt.Errorf("reading %d bytes of the peer's JSON: %w", n, err)
		}
	}
	return buf, nil
}

// WriteFrame marshals v and writes it behind its length, in one call to w.
func WriteFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err = w.Write(append(b, body...))
	return err
}
