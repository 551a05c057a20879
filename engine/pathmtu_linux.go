// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/encap"
)

// pathRefresh is for how long a path's MTU is taken as known. A change takes
// that long to be noticed, and asking costs two system calls.
const pathRefresh = 200 * time.Millisecond

// pathMTU is what is known of the way to a peer.
type pathMTU struct {
	inner atomic.Int32 // encap.InnerMTU; 0: not known
	until atomic.Int64 // when to ask again, in nanoseconds of the probe's clock
}

// certainlyFits reports, without looking at the clock, whether a frame is no
// longer than what was found last.
func (p *pathMTU) certainlyFits(frame int) bool {
	return frame <= int(p.inner.Load())+encap.EthernetLen
}

// A pathProbe asks the kernel for the MTU of the route to a peer, what it has
// learned from routers included: it connects a UDP socket, which sends nothing,
// and reads IP_MTU. This needs no netlink and no privilege.
type pathProbe struct {
	start  time.Time
	routes *routeWatch // told of every refresh
	mu     sync.Mutex
	fds    [2]int // by family; -1: not open
}

func (p *pathProbe) init() { p.start, p.fds = time.Now(), [2]int{-1, -1} }

// open opens the socket of a family. It is done when the engine is made, not
// when first needed, since a socket belongs to the network namespace of the
// thread that opens it.
func (p *pathProbe) open(v6 bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	family, i := unix.AF_INET, 0
	if v6 {
		family, i = unix.AF_INET6, 1
	}
	if p.fds[i] >= 0 {
		return nil
	}
	var err error
	p.fds[i], err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return err
}

func (p *pathProbe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, fd := range p.fds {
		if fd >= 0 {
			unix.Close(fd)
		}
		p.fds[i] = -1
	}
}

// innerMTU returns what fits through the tunnel to the peer without outer
// fragments, or 0 when there is no telling (no route, say).
func (p *pathProbe) innerMTU(to *peer) encap.InnerMTU {
	now := int64(time.Since(p.start))
	if now < to.mtu.until.Load() {
		return encap.InnerMTU(to.mtu.inner.Load())
	}
	to.mtu.until.Store(now + int64(pathRefresh))
	p.routes.look(to)
	mtu := p.ask(to)
	inner := 0
	if mtu > 0 {
		inner = mtu - encap.Overhead(to.v6)
	}
	if to.mtu.inner.Swap(int32(inner)) != int32(inner) {
		to.gsoLimit.Store(0) // another path, which may take what the last did not
	}
	return encap.InnerMTU(inner)
}

// ask returns the MTU of the route, or 0.
func (p *pathProbe) ask(to *peer) int {
	level, name, i := unix.IPPROTO_IP, unix.IP_MTU, 0
	if to.v6 {
		level, name, i = unix.IPPROTO_IPV6, unix.IPV6_MTU, 1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if connect(p.fds[i], &to.dest) != 0 {
		return 0
	}
	mtu, err := unix.GetsockoptInt(p.fds[i], level, name)
	if err != nil {
		return 0
	}
	return mtu
}
