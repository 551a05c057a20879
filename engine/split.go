// SPDX-License-Identifier: Apache-2.0

package engine

import "kohaku/encap"

// A splitter takes super-frames apart again.
type splitter struct {
	buf []byte
	cut encap.Cutter
}

func newSplitter() *splitter {
	return &splitter{buf: make([]byte, 0, encap.HeaderLen+1<<17)}
}

// split returns the frames that a merged run was made of, with whole
// checksums. They are copies and the caller's to keep.
func (s *splitter) split(run *encap.Run) []encap.Run {
	s.buf = s.buf[:encap.HeaderLen]
	for _, p := range run.Parts {
		s.buf = append(s.buf, p...)
	}
	if err := s.cut.Start(0, s.buf, run.Offload); err != nil {
		return nil // cannot be: the merger made it
	}
	var out []encap.Run
	for {
		d := make([]byte, s.cut.DatagramLen())
		n, size := s.cut.Next(d, 1)
		if n == 0 {
			return out
		}
		out = append(out, encap.Run{Parts: [][]byte{d[encap.HeaderLen:size]}, Frames: 1, Tag: run.Tag})
	}
}
