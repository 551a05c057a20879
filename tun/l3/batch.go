// SPDX-License-Identifier: Apache-2.0

package l3

import "runtime"

const (
	// packetOffset is where packets lie in a batch's buffers. In front of them
	// wireguard's TUN writes its own header (10 bytes on Linux, 4 on BSD); 16
	// also leaves room for the Ethernet header that Write strips.
	packetOffset = 16
	// bufferLen holds the longest IP packet. A shorter buffer would not do
	// though packets are shorter: the TUN splits super-frames into buffers
	// without a check of their length, and a MTU can be raised under us; and
	// what it merges it appends in place.
	bufferLen = packetOffset + 65536
	// fullBatch is how many packets wireguard's TUN on Linux passes in one call
	// (conn.IdealBatchSize).
	fullBatch = 128
)

// A batch is buffers for one call of the TUN's Read or Write. Memory that was
// never written to costs address space only, and a packet of 1450 bytes touches
// one page of its buffer.
type batch struct {
	memory []byte
	bufs   [][]byte
	sizes  []int
	n      int // packets in it
	next   int // the first that was not yet passed on
}

func newBatch(size int) *batch {
	b := &batch{memory: make([]byte, size*bufferLen), bufs: make([][]byte, size), sizes: make([]int, size)}
	b.restore(size)
	return b
}

// restore undoes what Write's merging does to the first n buffers: it moves
// them about and lengthens them.
func (b *batch) restore(n int) {
	for i := range b.bufs[:n] {
		b.bufs[i] = b.memory[i*bufferLen : (i+1)*bufferLen : (i+1)*bufferLen]
	}
}

// packet is the i-th packet after a Read.
func (b *batch) packet(i int) []byte { return b.bufs[i][packetOffset:][:b.sizes[i]] }

// pool keeps batches of one size for reuse, as many as can be in use at once by
// readers and writers that all run. Further ones are made and let go.
type pool struct {
	size int
	free chan *batch
}

func newPool(size int) *pool {
	return &pool{size, make(chan *batch, min(2*runtime.GOMAXPROCS(0), 8))}
}

// One pool for all devices: with hundreds of them, most idle, memory belongs to
// those at work.
var fullBatches = newPool(fullBatch)

func (p *pool) get() *batch {
	select {
	case b := <-p.free:
		return b
	default:
		return newBatch(p.size)
	}
}

func (p *pool) put(b *batch) {
	select {
	case p.free <- b:
	default:
	}
}
