// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
)

// The topology is that of cluster_test.go, on an underlay where every packet
// crosses on its own, so that the kernel's counters count what ours count:
//
//	box1 <=== TCP bulk, small UDP, ping ===> box2     through runner1, host, runner2

// soakTime is how long traffic flows; soakEnv sets another time.
const (
	soakTime = 60 * time.Second
	soakEnv  = "KOHAKU_SOAK" // a duration, such as 10m

	soakUDPSize = 64
	soakUDPRate = 2000 // datagrams per second and direction
)

// Growth that is allowed between the first fifth of the run and its end. A leak
// per packet, connection or second is far beyond it.
const (
	maxRSSGrowth     = 16 << 20
	maxThreadGrowth  = 4
	maxFDGrowth      = 2 // a Runner's connection to the API
	maxExtraRoutines = 4 // a heartbeat under way
)

// TestSoak runs three kinds of traffic at once through Host and two Runners.
// Afterwards every loss stands in a named counter, and nothing has grown.
func TestSoak(t *testing.T) {
	duration := soakTime
	if s := os.Getenv(soakEnv); s != "" {
		duration = must(time.ParseDuration(s))(t)
	}
	k := newCluster(t, lab.UnderlayConfig{Profile: lab.Wire})
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	idle := k.goroutines()
	k.waitActive("runner1", "runner2")
	k.checkReach()
	k.settle()
	before := k.counters()

	s := startSoak(t, k)
	time.Sleep(duration / 5)
	early := k.usage()
	time.Sleep(duration - duration/5)
	late := k.usage()
	s.stopAndReport(t)

	k.settle()
	k.checkAccounts(before, s)
	for i, e := range early {
		l := late[i]
		t.Logf("%s: RSS %d -> %d MiB, %d -> %d threads, %d -> %d descriptors", k.Hosts[i].Name(),
			e.rss>>20, l.rss>>20, e.threads, l.threads, e.descriptors, l.descriptors)
		if l.rss > e.rss+maxRSSGrowth || l.threads > e.threads+maxThreadGrowth || l.descriptors > e.descriptors+maxFDGrowth {
			t.Errorf("%s grows:\n%+v after a fifth of the time,\n%+v at the end", k.Hosts[i].Name(), e, l)
		}
	}
	for i, n := range k.goroutines() {
		t.Logf("%s: %d goroutines without traffic, %d after it", k.Hosts[i].Name(), idle[i], n)
		if n > idle[i]+maxExtraRoutines {
			t.Errorf("%s has %d goroutines after the traffic, %d before", k.Hosts[i].Name(), n, idle[i])
		}
	}
}

// soak is the traffic of a run.
type soak struct {
	stop    chan struct{}
	wg      sync.WaitGroup
	streams []*stream
	flows   []*flow
	pings   []*pings
}

// stream is TCP bulk, one way.
type stream struct {
	name   string
	result traffic.TCPResult
	err    error
}

// flow is small datagrams at a fixed rate, one way.
type flow struct {
	name   string
	sink   *traffic.UDPSink
	sender *traffic.UDPSender
	err    error
}

// pings are echo requests, one after the other.
type pings struct {
	name       string
	sent, lost atomic.Uint64
	worst      time.Duration
	p          *traffic.Pinger
}

func startSoak(t *testing.T, k *cluster) *soak {
	t.Helper()
	s := &soak{stop: make(chan struct{})}
	ctx := t.Context()
	for i, from := range k.boxes {
		to, addr := k.boxes[1-i], k.boxAddr(1-i)
		name := from.Name() + " to " + to.Name()

		sink := closeAfter(t, open(t, to, func() (*traffic.TCPSink, error) { return traffic.ListenTCP(netip.AddrPortFrom(addr, 0)) }))
		tcp := open(t, from, func() (*traffic.TCPStream, error) { return traffic.DialTCP(ctx, netip.Addr{}, sink.Addr()) })
		st := &stream{name: name}
		s.streams = append(s.streams, st)
		s.wg.Go(func() { st.result, st.err = tcp.SendUntil(ctx, uint64(i), s.stop) })

		f := &flow{name: name}
		f.sink = closeAfter(t, open(t, to, func() (*traffic.UDPSink, error) { return traffic.ListenUDP(netip.AddrPortFrom(addr, 0)) }))
		f.sender = closeAfter(t, open(t, from, func() (*traffic.UDPSender, error) { return traffic.DialUDP(netip.Addr{}, f.sink.Addr()) }))
		s.flows = append(s.flows, f)
		s.wg.Go(func() { f.err = f.run(s.stop) })

		for _, target := range []netip.Addr{addr, netip.MustParseAddr("10.0.0.1")} {
			p := &pings{name: from.Name() + " to " + target.String()}
			p.p = closeAfter(t, open(t, from, func() (*traffic.Pinger, error) { return traffic.NewPinger(netip.Addr{}, target) }))
			s.pings = append(s.pings, p)
			s.wg.Go(func() { p.run(ctx, s.stop) })
		}
	}
	return s
}

// run sends in small bursts, as timers wake up.
func (f *flow) run(stop <-chan struct{}) error {
	const tick = 5 * time.Millisecond
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for start := time.Now(); ; {
		select {
		case <-stop:
			return nil
		case <-ticker.C:
		}
		due := uint64(time.Since(start).Seconds() * soakUDPRate)
		for f.sender.Sent() < due {
			if err := f.sender.Send(soakUDPSize); err != nil {
				return err
			}
		}
	}
}

func (p *pings) run(ctx context.Context, stop <-chan struct{}) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			return
		case <-ticker.C:
		}
		wait, cancel := context.WithTimeout(ctx, 5*time.Second)
		rtt, err := p.p.Ping(wait, 56)
		cancel()
		p.sent.Add(1)
		if err != nil {
			p.lost.Add(1)
		}
		p.worst = max(p.worst, rtt)
	}
}

func (s *soak) stopAndReport(t *testing.T) {
	t.Helper()
	close(s.stop)
	s.wg.Wait()
	for _, st := range s.streams {
		if st.err != nil {
			t.Errorf("TCP %s: %v", st.name, st.err)
			continue
		}
		t.Logf("TCP %s: %d MiB, %.2f Gbit/s, content the same", st.name, st.result.Bytes>>20, st.result.BitsPerSecond()/1e9)
	}
	for _, f := range s.flows {
		got := f.sink.Stats()
		t.Logf("UDP %s: %d sent, %d lost, %d out of order, %d doubled, %d changed", f.name, f.sender.Sent(), f.sender.Sent()-got.Received,
			got.Reordered, got.Duplicated, got.Corrupt)
		if f.err != nil || got.Received == 0 || got.Corrupt != 0 || got.Duplicated != 0 {
			t.Errorf("UDP %s: %v, %+v", f.name, f.err, got)
		}
	}
	for _, p := range s.pings {
		t.Logf("ping %s: %d sent, %d lost, longest %v", p.name, p.sent.Load(), p.lost.Load(), p.worst)
		if p.sent.Load() == p.lost.Load() {
			t.Errorf("ping %s: all lost", p.name)
		}
	}
}

// lost is how many datagrams and pings did not arrive.
func (s *soak) lost() uint64 {
	var n uint64
	for _, f := range s.flows {
		n += f.sender.Sent() - f.sink.Stats().Received
	}
	for _, p := range s.pings {
		n += p.lost.Load()
	}
	return n
}

// usage is what each daemon takes now. Descriptors come and go with heartbeats
// and with the commands that a daemon runs, so it looks several times and takes
// the least.
func (k *cluster) usage() []status {
	var all []status
	for _, d := range k.daemons {
		s := procStatus(k.t, d.pid())
		for range 10 {
			time.Sleep(heartbeat / 5)
			if now := procStatus(k.t, d.pid()); now.descriptors < s.descriptors {
				s.descriptors, s.open = now.descriptors, now.open
			}
		}
		all = append(all, s)
	}
	return all
}

// goroutines counts each daemon's goroutines by having it print their stacks,
// which ends it, and starts it anew.
func (k *cluster) goroutines() []int {
	k.t.Helper()
	var counts []int
	for i, d := range k.daemons {
		_ = d.end(syscall.SIGQUIT) // exit status 2
		n := 0
		for line := range strings.Lines(d.log()) {
			if strings.HasPrefix(line, "goroutine ") && !strings.HasPrefix(line, "goroutine 0 ") {
				n++
			}
		}
		if n == 0 {
			k.t.Fatalf("%s printed no goroutines:\n%s", d.name, d.log())
		}
		counts = append(counts, n)
		k.start(i)
	}
	return counts
}

// settle waits until what is under way has arrived and the Runners have
// reported their counters.
func (k *cluster) settle() {
	k.t.Helper()
	last := ""
	eventually(k.t, 20*time.Second, "counters settle", func() error {
		time.Sleep(3 * heartbeat)
		now := fmt.Sprint(slices.Collect(func(yield func(string) bool) {
			for _, c := range k.tunnelCounters() {
				if !yield(fmt.Sprint(c.host.Counters, c.runner.Counters)) {
					return
				}
			}
		}))
		if now != last {
			last = now
			return fmt.Errorf("still changing: %s", now)
		}
		return nil
	})
}
