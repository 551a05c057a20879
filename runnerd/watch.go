// SPDX-License-Identifier: Apache-2.0

package runnerd

import (
	"context"
	"net/netip"
	"time"
)

const (
	// settle lies between a change and the look at it: changes come in flocks.
	// While they go on, it doubles up to maxSettle: somebody may be undoing what we
	// do, and neither is to keep the machine busy.
	settle    = 50 * time.Millisecond
	maxSettle = 800 * time.Millisecond
	// watchRetry lies between two tries to be told of changes.
	watchRetry = 5 * time.Second
)

// watch passes on that something of this machine's network has changed, until ctx
// ends. Without it changes are still noticed, only later.
func (r *Runner) watch(ctx context.Context) {
	for ctx.Err() == nil {
		changes, err := r.links.Watch(ctx)
		if r.problems.Set("watch", err) {
			// What changed before the watch began was not told.
			r.tellChange()
			wait, last := settle, time.Time{}
			for range changes {
				if time.Since(last) > 2*settle {
					wait = settle
				}
				pause(ctx, wait)
				r.tellChange()
				wait, last = min(2*wait, maxSettle), time.Now()
			}
			if ctx.Err() == nil {
				r.log.Warn("the kernel tells no more of changes to the network: asking again")
			}
		}
		pause(ctx, watchRetry)
	}
}

func (r *Runner) tellChange() {
	for _, ch := range []chan struct{}{r.changedHere, r.changedRoute} {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// pauseOrMoved waits for d, or until this machine can speak to the Host from an
// address other than from; the zero address means that it could not at all. It
// reports the latter.
func (r *Runner) pauseOrMoved(ctx context.Context, d time.Duration, from netip.Addr) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
			return false
		case <-r.changedRoute:
		}
		path, err := r.self(ctx)
		if err == nil && path.Local != from {
			return true
		}
		from = path.Local
	}
}

// followPath calls moved once when this machine speaks to the Host from another
// address than from, and ends then or with ctx. A path that is gone is no other
// path: traffic waits for it to come back.
func (r *Runner) followPath(ctx context.Context, from netip.Addr, moved func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.changedRoute:
		}
		path, err := r.self(ctx)
		if ctx.Err() != nil {
			return
		}
		if r.problems.Set("underlay", err) && path.Local != from {
			r.sayMoved(from, path.Local)
			moved()
			return
		}
	}
}

// sayMoved tells of a new underlay address and gives up connections from the old
// one, which would only time out.
func (r *Runner) sayMoved(was, is netip.Addr) {
	r.log.Warn("the underlay address of this machine has changed: registering again", "was", was, "is", is)
	r.opts.Host.Close()
}
