// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"kohaku/perf"
)

// Within a round the paths take turns, on connections that stay: each sends for a
// moment, until nothing of it is on its way any more, and then the next. A
// machine's speed changes by a third within a second, and by less within the time
// of a cycle, one turn of every path; so their ratio is known as well as in three
// times the time with each path measured in one piece.
const (
	// leastSettle is what does not count at a turn's start, at least: the path was
	// idle, its threads asleep and its queues empty.
	leastSettle = 10 * time.Millisecond
	// leastTurn is what counts of a turn, at least. It is long against a read, short
	// against the machine's moods, and more than the waves of most paths ask for: what
	// a path reaches in a turn depends on its length, which must not be by chance.
	leastTurn = 40 * time.Millisecond
	// A path whose queues take longer to empty moves in longer waves, and has turns
	// in proportion: it settles for as long as they took after the warm-up, and
	// counts for turnWaves times that, up to mostTurn.
	turnWaves = 4
	mostTurn  = 160 * time.Millisecond
	// warmUp is the first turn of each path, which does not count: congestion
	// control and the kernel's buffers find their size.
	warmUp = 70 * time.Millisecond
	// quiet is how long nothing arrives when all has.
	quiet = 1500 * time.Microsecond
	// quietLimit is how long what is in the queues of a path may take.
	quietLimit = 2 * time.Second
	// lead is how long before a turn both ends are told of it.
	lead = time.Millisecond
)

// beginRequest starts a workload that sends when it is told to.
type beginRequest struct {
	Workload string
	From, To netip.Addr
}

// windowRequest names a time, by perf.Now: for the sending end when to send, for
// the receiving one what counts.
type windowRequest struct {
	To          netip.Addr
	From, Until time.Duration
	// Counts is from when the sending end's own figures count.
	Counts time.Duration `json:",omitempty"`
}

// settleRequest waits until nothing arrives at a server any more.
type settleRequest struct{ To netip.Addr }

// endRequest ends a workload that was begun.
type endRequest struct{ To netip.Addr }

// turn is what one end saw of a turn.
type turn struct {
	Count perf.Count
	Gate  perf.Turn // sending end
	CPU   float64   // receiving end: seconds of this process
}

// gated is a workload that waits for its turns.
type gated struct {
	workload Workload
	gate     *perf.Gate
	meter    *perf.Meter
	done     chan struct{} // closed when the following are set
	result   *perf.Result
	err      error
}

// metered is a server's meter.
type metered struct {
	meter *perf.Meter
	cpu   float64 // of the process, when the window was set
}

// begin starts a workload and returns when its connections stand.
func (a *agent) begin(r *beginRequest) error {
	w, cfg, err := client(r.Workload, r.From, r.To)
	if err != nil {
		return err
	}
	g := &gated{workload: w, gate: perf.NewGate(), meter: new(perf.Meter), done: make(chan struct{})}
	stands := make(chan struct{})
	cfg.Duration, cfg.Gate, cfg.Meter = time.Hour, g.gate, g.meter
	cfg.OnStart = func(*perf.Result) { close(stands) }
	a.wg.Go(func() {
		defer close(g.done)
		g.result, g.err = perf.RunClient(a.ctx, cfg)
	})
	select {
	case <-stands:
		a.tests[r.To] = g
		return nil
	case <-g.done:
		return g.err
	}
}

// open lets a workload send.
func (a *agent) open(r *windowRequest, ans *answer) error {
	g := a.tests[r.To]
	if g == nil {
		return fmt.Errorf("no workload was begun to %v", r.To)
	}
	g.meter.Window(r.Counts, r.Until)
	t, err := g.gate.Open(r.From, r.Until)
	if err != nil {
		select {
		case <-g.done:
			err = errors.Join(err, g.err)
		default:
		}
		return err
	}
	ans.Turn = &turn{Count: g.meter.Count(), Gate: t}
	return nil
}

// server gives the meter of the server at an address.
func (a *agent) server(at netip.Addr) (*metered, error) {
	if m := a.meters[at]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("no server at %v", at)
}

// window sets what counts at a server.
func (a *agent) window(r *windowRequest) error {
	m, err := a.server(r.To)
	if err != nil {
		return err
	}
	m.meter.Window(r.From, r.Until)
	m.cpu, err = ownCPU()
	return err
}

// settle waits until nothing arrives at a server any more and tells what did.
func (a *agent) settle(r *settleRequest, ans *answer) error {
	m, err := a.server(r.To)
	if err != nil {
		return err
	}
	limit := perf.Now() + quietLimit
	for {
		c, now := m.meter.Count(), perf.Now()
		if left := c.Last + quiet - now; left > 0 && now < limit {
			time.Sleep(left)
			continue
		}
		cpu, err := ownCPU()
		ans.Turn = &turn{Count: c, CPU: cpu - m.cpu}
		return err
	}
}

// end ends a workload and reads what it saw in all.
func (a *agent) end(r *endRequest, ans *answer) error {
	g := a.tests[r.To]
	if g == nil {
		return nil // it did not begin, and that was said
	}
	delete(a.tests, r.To)
	g.gate.End()
	<-g.done
	if g.err != nil {
		return g.err
	}
	reading, err := g.workload.read(g.result)
	ans.Reading = &reading
	return err
}

// test is a round's test of one path.
type test struct {
	*bench
	path           path
	workload       Workload
	before         engineCounters
	settle, length time.Duration // of its turns

	// What they showed.
	values []float64  // by cycle, in the workload's unit
	amount float64    // of what processor time is given for
	own    [2]float64 // processor seconds of the sending and the receiving generator
	drain  time.Duration
	// Seconds of the machine: of its processors, taken away from them, of the clock.
	busy, steal, wall float64
}

// begin starts a path's test and warms it up.
func (b *bench) begin(p path, w Workload) (_ *test, err error) {
	t := &test{bench: b, path: p, workload: w}
	if _, err := b.first().ask(request{Begin: &beginRequest{Workload: w.Name, From: p.from, To: p.to}}); err != nil {
		return nil, err
	}
	from := perf.Now() + lead
	_, r, err := t.turn(from, from, from+warmUp)
	if err != nil {
		return nil, errors.Join(err, t.abandon())
	}
	wave := min(r.Count.Last-from-warmUp, mostTurn/turnWaves)
	t.settle, t.length = max(wave, leastSettle), max(turnWaves*wave, leastTurn)
	if t.ours() {
		t.before = b.counters()
	}
	return t, nil
}

// abandon ends a test whose figures are not wanted.
func (t *test) abandon() error {
	_, err := t.first().ask(request{End: &endRequest{To: t.path.to}})
	return err
}

func (t *test) ours() bool { return t.path.name == Userspace }

// turn lets the path send from a time until another and counts from a third.
func (t *test) turn(from, counts, until time.Duration) (sender, receiver *turn, err error) {
	if _, err = t.last().ask(request{Window: &windowRequest{To: t.path.to, From: counts, Until: until}}); err != nil {
		return nil, nil, err
	}
	s, err := t.first().ask(request{Open: &windowRequest{To: t.path.to, From: from, Counts: counts, Until: until}})
	if err != nil {
		return nil, nil, err
	}
	r, err := t.last().ask(request{Settle: &settleRequest{To: t.path.to}})
	if err != nil {
		return nil, nil, err
	}
	return s.Turn, r.Turn, nil
}

// take is one turn that counts.
func (t *test) take() error {
	var s, r *turn
	for n := 1; ; n++ {
		var err error
		from := perf.Now() + lead
		counts := from + t.settle
		if s, r, err = t.turn(from, counts, counts+t.length); err != nil {
			return err
		}
		if s.Gate.Late < t.settle {
			break
		}
		if n == attempts { // on a machine that is busy with something else
			return fmt.Errorf("the sender began %v late, %d times in a row", s.Gate.Late, n)
		}
	}
	value, amount := t.workload.turn(s.Count, r.Count, t.length)
	t.values = append(t.values, value)
	t.amount += amount
	m := s.Gate.Machine
	t.busy += m.Busy()
	t.steal += m.Steal
	t.wall += m.Elapsed
	t.own[0] += s.Gate.CPU.Total / 100 * m.Elapsed
	t.own[1] += r.CPU
	t.drain += s.Gate.Drain
	return nil
}

// end ends the test and gives what the turns and the whole of it showed.
func (t *test) end() (*Reading, error) {
	a, err := t.first().ask(request{End: &endRequest{To: t.path.to}})
	if err != nil {
		return nil, err
	}
	r := a.Reading
	r.turns, r.Value = t.values, t.workload.sum(t.values)
	if r.Value == 0 {
		return nil, errNothing
	}
	if t.amount > 0 {
		r.CPU = t.busy / t.amount
	}
	wall := max(t.wall, 1e-9)
	r.Detail["sender_cpu_percent"] = 100 * t.own[0] / wall
	r.Detail["receiver_cpu_percent"] = 100 * t.own[1] / wall
	r.Detail["steal_percent"] = 100 * t.steal / wall
	r.Detail["drain_ms"] = t.drain.Seconds() * 1e3 / float64(max(len(t.values), 1))
	if t.ours() {
		t.counters().describe(t.before, wall, r.Detail)
	}
	return r, nil
}

// cycles gives how many cycles make up the time that a path is measured in a
// round: that with the longest turns. The others have a quarter of them, at least,
// to be known as well.
func cycles(d time.Duration, tests []*test) int {
	length := leastTurn
	for _, t := range tests {
		length = max(length, t.length)
	}
	for _, t := range tests {
		t.length = max(t.length, length/4)
	}
	return max(leastCycles, int((d+length-1)/length))
}

// leastCycles is how often a round alternates, at least.
const leastCycles = 4
