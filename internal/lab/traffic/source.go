// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/binary"
	"math/rand/v2"
)

const (
	tableSize = 1 << 20
	chunkSize = 1 << 16
)

// Source is an endless stream of pseudo-random bytes that depends only on its
// seed. It costs little more than a copy: the stream is cut from one random
// table in chunks, each from another place and with its number in front, so that
// a chunk that is lost, doubled or out of place changes the content.
type Source struct {
	table []byte
	chunk []byte
	next  uint64
	left  []byte
}

// NewSource returns the stream of the seed.
func NewSource(seed uint64) *Source {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	s := &Source{table: make([]byte, tableSize+chunkSize), chunk: make([]byte, chunkSize)}
	random := rand.NewChaCha8(key)
	_, _ = random.Read(s.table) // never fails
	return s
}

// Read fills p. It never fails.
func (s *Source) Read(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(s.left) == 0 {
			// An odd multiple visits every offset before it repeats one.
			at := s.next * 40503 % tableSize
			copy(s.chunk, s.table[at:])
			binary.LittleEndian.PutUint64(s.chunk, s.next)
			s.next++
			s.left = s.chunk
		}
		c := copy(p, s.left)
		p, s.left = p[c:], s.left[c:]
	}
	return n, nil
}
