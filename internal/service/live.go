// SPDX-License-Identifier: Apache-2.0

package service

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Live knows which of a daemon's loops still turn. The zero value is ready for
// use; it is safe for concurrent use.
type Live struct {
	mu    sync.Mutex
	loops map[string]*Loop
	now   func() time.Time // nil: time.Now; with a monotonic reading
}

// grace is how long a turn of a loop may take beyond the pause that it announced:
// longer than the timeout of any call that the daemons make in one turn.
const grace = 45 * time.Second

// Loop is one loop. Its methods are safe for concurrent use.
type Loop struct {
	live *Live
	name string
	due  time.Time // guarded by live.mu
}

// Loop enters a loop, by a name for people, that begins to turn now. Two of one
// name are one.
func (l *Live) Loop(name string) *Loop {
	loop := &Loop{live: l, name: name}
	loop.Tick(0)
	return loop
}

// Tick says that the loop turns, and will turn again after next at the latest, but
// for what a turn takes.
func (o *Loop) Tick(next time.Duration) {
	l := o.live
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.loops == nil {
		l.loops = make(map[string]*Loop)
	}
	l.loops[o.name] = o
	o.due = l.time().Add(next + grace)
}

// End says that the loop has ended in order.
func (o *Loop) End() {
	o.live.mu.Lock()
	defer o.live.mu.Unlock()
	if o.live.loops[o.name] == o {
		delete(o.live.loops, o.name)
	}
}

// Late lists the loops that should have turned and did not, one sentence each,
// sorted; nothing when all is well, or when l is nil.
func (l *Live) Late() []string {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var late []string
	now := l.time()
	for _, o := range l.loops {
		if over := now.Sub(o.due); over > 0 {
			late = append(late, fmt.Sprintf("%s hangs for %v", o.name, (over+grace).Round(time.Second)))
		}
	}
	slices.Sort(late)
	return late
}

func (l *Live) time() time.Time {
	if l.now != nil {
		return l.now()
	}
	return time.Now()
}
