// SPDX-License-Identifier: Apache-2.0

package firewall

import (
	"context"
	"math"
	"strings"
	"sync"
	"time"

	"kohaku/internal/api"
)

// layer is one of the ways in which a machine filters packets. Its methods are
// called by one goroutine at a time, on a thread in the right namespace.
type layer interface {
	ensure(ctx context.Context, r Rules) pass
	remove(ctx context.Context) (changes []string, err error)
	// inUse names what has rules of ours.
	inUse() []string
	// poll is how long to go without a look; told: the kernel's notifications come.
	poll(told bool) time.Duration
	close()
}

// pass is the outcome of one look at a layer.
type pass struct {
	changes   []string // sentences
	lost      []string // were in place after the last look, and had vanished
	displaced []string // were in place after the last look, and stood elsewhere
	err       error
}

func (p *pass) fail(err error) { p.err = joinSentences([]error{p.err, err}) }

// keeper is a layer with what is known of it.
type keeper struct {
	name string        // constant
	kick chan struct{} // constant: one place; look now

	work  sync.Mutex // held during a look; guards layer and what follows
	layer layer
	good  time.Time // of the last look that found or left all in place
	// pending is what had vanished and is not back yet.
	pending *api.FirewallEvent
	since   time.Time // when pending vanished
	atMost  bool      // since is only a bound

	own func(by string) bool // constant: may that be a change of our own?

	mu      sync.Mutex
	busy    bool      // a look is under way
	changed time.Time // end of the last look that changed something
	noted   time.Time // of the first notification since the last look; zero: none
	by      string    // who it was, as far as known
	told    bool
	err     error
	using   []string
	next    time.Duration // until the next look
}

func newKeeper(name string, l layer, own func(by string) bool) *keeper {
	return &keeper{own: own, name: name, kick: make(chan struct{}, 1), layer: l, next: legacyPoll}
}

// ownEcho is how long after a change of ours we may hear of it.
const ownEcho = 100 * time.Millisecond

// note says that something changed just now. What may well be an echo of our own
// change is looked at all the same, but is not taken for the culprit.
func (k *keeper) note(by string) {
	k.mu.Lock()
	echo := (k.busy || time.Since(k.changed) < ownEcho) && k.own(by)
	if k.noted.IsZero() && !echo {
		k.noted, k.by = time.Now(), by
	}
	k.mu.Unlock()
	k.wake()
}

func (k *keeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

func (k *keeper) takeNote() (at time.Time, by string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, by = k.noted, k.by
	k.noted, k.by, k.busy = time.Time{}, "", true
	return at, by
}

func (k *keeper) failure() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

func (k *keeper) inUse() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.using...)
}

func (k *keeper) setTold(told bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told = told
}

func (k *keeper) pause() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.next
}

func (k *keeper) close() {
	k.work.Lock()
	defer k.work.Unlock()
	k.layer.close()
}

func (k *keeper) remove(n *namespace) (changes []string, err error) {
	k.work.Lock()
	defer k.work.Unlock()
	k.pending = nil
	if failed := n.do(func() { changes, err = k.layer.remove(context.Background()) }); failed != nil {
		return nil, failed
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err, k.using = nil, nil
	return changes, err
}

// pass looks at a layer once, puts right what is wrong, and records what others did.
func (f *Firewall) pass(ctx context.Context, k *keeper, r Rules) pass {
	k.work.Lock()
	defer k.work.Unlock()
	at, by := k.takeNote()
	start := time.Now()
	var p pass
	if err := f.namespace.do(func() { p = k.layer.ensure(ctx, r) }); err != nil {
		p.err = err
	}
	if at.IsZero() { // it may have happened just as we looked
		k.mu.Lock()
		at, by = k.noted, k.by
		k.mu.Unlock()
	}
	if ctx.Err() != nil { // the failure, if there is one, is the daemon's end
		k.mu.Lock()
		defer k.mu.Unlock()
		k.busy = false
		return p
	}
	if len(p.lost)+len(p.displaced) > 0 && k.pending == nil {
		k.pending = event(p, by)
		k.since, k.atMost = at, at.IsZero()
		if k.atMost {
			if k.since = k.good; k.since.IsZero() {
				k.since = start
			}
		}
	}
	if p.err == nil {
		k.good = time.Now()
		if k.pending != nil {
			k.pending.When = k.since
			k.pending.BackAfter, k.pending.AtMost = k.good.Sub(k.since).Seconds(), k.atMost
			f.record(*k.pending)
			k.pending = nil
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.busy = false; len(p.changes) > 0 {
		k.changed = time.Now()
	}
	k.err, k.using = p.err, k.layer.inUse()
	_ = f.namespace.do(func() { k.next = k.layer.poll(k.told) })
	if p.err != nil {
		k.next = min(k.next, legacyPoll)
	}
	return p
}

func event(p pass, by string) *api.FirewallEvent {
	e := &api.FirewallEvent{What: api.FirewallWiped, By: api.Printable(by)}
	names := p.lost
	if len(names) == 0 {
		e.What, names = api.FirewallDisplaced, p.displaced
	}
	const most = 4
	more := ""
	if len(names) > most {
		more = ", and " + itoa(len(names)-most) + " more"
		names = names[:most]
	}
	e.Lost = api.Printable(strings.Join(names, ", ") + more)
	return e
}

// keep looks at a layer whenever something changed, and now and then, until ctx
// ends.
func (f *Firewall) keep(ctx context.Context, k *keeper) {
	var pace pace
	again := time.Duration(math.MaxInt64)
	for {
		if !waitFor(ctx, k.kick, min(again, k.pause())) {
			return
		}
		r, ok := f.target()
		if !ok {
			continue
		}
		start := time.Now()
		p := f.pass(ctx, k, r)
		if ctx.Err() != nil {
			return
		}
		for _, c := range p.changes {
			f.log.Debug("firewall: " + c)
		}
		if k == f.tables && f.inspect(r, false) {
			again = obstaclePause
		} else {
			again = math.MaxInt64
		}
		wait, fight := pace.after(time.Now(), time.Since(start), len(p.changes) > 0)
		if fight {
			f.log.Warn("somebody keeps changing what we keep in the firewall; from now on it is put back less often", "layer", k.name,
				"at_least_every", maxHoldOff)
		}
		if !waitFor(ctx, nil, wait) {
			return
		}
	}
}

// waitFor waits for a kick or the time, and reports whether ctx is still good.
func waitFor(ctx context.Context, kick <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-kick:
	case <-timer.C:
	}
	return ctx.Err() == nil
}

const (
	minGap     = 50 * time.Millisecond // between two looks
	maxGap     = time.Second           // when nothing of ours was touched
	maxHoldOff = 4 * time.Second       // in a fight
	// patience is how many looks may follow each other in a hurry, with a repair or
	// without.
	patience = 8
	// quiet ends a fight.
	quiet = 30 * time.Second
)

// pace decides how soon after a look the next one may come: on a machine whose rules
// change all the time, looks may not cost more than a twentieth of a processor, and
// two programs that undo each other's work must
// not burn one.
type pace struct {
	last  time.Time // repair
	level int       // repairs in a row
	ended time.Time // the last look
	idle  int       // looks in a row without a repair
}

// after says how long to wait after a look that ended now; fight is true once per
// fight.
func (p *pace) after(now time.Time, cost time.Duration, repaired bool) (wait time.Duration, fight bool) {
	if now.Sub(p.ended) > 2*maxGap {
		p.idle = 0
	}
	p.ended = now
	wait = minGap
	if p.idle++; p.idle > patience {
		wait = min(max(minGap, 20*cost), maxGap)
	}
	if now.Sub(p.last) > quiet {
		p.level = 0
	}
	if !repaired {
		return wait, false
	}
	p.last, p.idle = now, 0
	p.level++
	wait = minGap
	if over := p.level - patience; over > 0 {
		wait = min(minGap<<min(over, 10), maxHoldOff)
		fight = over == 1
	}
	return wait, fight
}
