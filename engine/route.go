// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"net/netip"
	"sync"
)

// A routeWatch finds circular routes: those on which the datagrams for a peer
// would lead back into the tunnel that they come out of. The kernel's driver sees
// that at every packet and answers ELOOP (drivers/net/vxlan/vxlan_core.c,
// vxlan_xmit_one); here somebody who may ask the kernel for routes is asked, by a
// goroutine, whenever a tunnel in use refreshes what it knows of its path.
//
// Between two looks, pathRefresh apart, frames may go around: each of them once
// for every look at most, since what comes back is recognised as one of our own
// datagrams (see sendFrames) or waits for a neighbour that cannot answer.
type routeWatch struct {
	circular func(remote netip.Addr, device string) (bool, error)
	ask      chan routeQuestion
	wg       sync.WaitGroup
}

type routeQuestion struct {
	p      *peer
	device string
}

// newRouteWatch returns nil when there is nobody to ask.
func newRouteWatch(circular func(netip.Addr, string) (bool, error)) *routeWatch {
	if circular == nil {
		return nil
	}
	// What finds no room is asked again at the next refresh.
	w := &routeWatch{circular: circular, ask: make(chan routeQuestion, 64)}
	w.wg.Go(func() {
		for q := range w.ask {
			loop, err := w.circular(q.p.Remote, q.device)
			// No route, or no answer: sending will tell.
			q.p.circular.Store(loop && err == nil)
		}
	})
	return w
}

// look has a peer's route judged soon. It does not block.
func (w *routeWatch) look(p *peer) {
	if w == nil {
		return
	}
	select {
	case w.ask <- routeQuestion{p, p.device}:
	default:
	}
}

// close ends the goroutine. Nobody may look any more.
func (w *routeWatch) close() {
	if w == nil {
		return
	}
	close(w.ask)
	w.wg.Wait()
}
