// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"kohaku/encap"
	"kohaku/engine"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
)

// 255 tunnels in one engine, as many as the Host of the largest cluster has. The engine
// runs in a process of its own, in which nothing else takes memory; the other
// ends are the kernel's:
//
//	left: one process                          right: the kernel
//	  t1   10.100.1.1/24   -- VNI 1001 --   t1   10.100.1.2/24
//	  t2   10.100.2.1/24   -- VNI 1002 --   t2   10.100.2.2/24
//	  ...                                   ...
//	  t255 10.100.255.1/24 -- VNI 1255 --   t255 10.100.255.2/24
//	  eth0 192.0.2.1 ------- switch ------- eth0 192.0.2.2
const (
	manyTunnels     = 255
	manyMaxRSS      = 150 << 20
	idleTime        = 5 * time.Second
	maxIdleCPU      = 0.10 // of one CPU; what is measured is far below
	roleManyTunnels = "many-tunnels"
	roleManyRemote  = "KOHAKU_INTEGRATION_REMOTE"
)

func manyDevice(i int) string { return fmt.Sprintf("t%d", i) }
func manyVNI(i int) encap.VNI { return encap.VNI(1000 + i) }
func manyAddr(i, side int) node {
	return node{addr: netip.AddrFrom4([4]byte{10, 100, byte(i), byte(side)})}
}

// manyReport is what the engine's process says about itself.
type manyReport struct {
	Goroutines int
	Stats      engine.Stats
	Tunnels    []engine.TunnelStats
}

// playManyTunnels is the engine's process. It answers each line with a report
// and ends, leaving no goroutine, when its standard input does.
func playManyTunnels() error {
	remote, err := netip.ParseAddr(os.Getenv(roleManyRemote))
	if err != nil {
		return err
	}
	before := runtime.NumGoroutine()
	e, err := engine.New(engine.Config{UDPGSO: true, UDPGRO: true})
	if err != nil {
		return err
	}
	for i := 1; i <= manyTunnels; i++ {
		t := engine.Tunnel{VNI: manyVNI(i), Peer: engine.Peer{Remote: remote}}
		if err := openTunnel(e, manyDevice(i), 1450, t); err != nil {
			return errors.Join(err, e.Close())
		}
	}
	fmt.Println("ready")
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for in.Scan() {
		if err := out.Encode(manyReport{runtime.NumGoroutine(), e.Stats(), e.Tunnels()}); err != nil {
			return err
		}
	}
	if err := errors.Join(in.Err(), e.Close()); err != nil {
		return err
	}
	// A worker says that it is done just before its goroutine ends.
	after := runtime.NumGoroutine()
	for range 100 {
		if after <= before {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
		after = runtime.NumGoroutine()
	}
	return fmt.Errorf("%d goroutines after Close, %d before New", after, before)
}

func TestManyTunnels(t *testing.T) {
	u := newUnderlay(t, lab.UnderlayConfig{Names: []string{"left", "right"}})
	left, right := u.Hosts[0], u.Hosts[1]
	p := startManyTunnels(t, left, right.V4)
	fresh := procStatus(t, p.pid)

	for i := 1; i <= manyTunnels; i++ {
		check(t, left.AddAddr(manyDevice(i), netip.PrefixFrom(manyAddr(i, 1).addr, 24)))
		check(t, left.SetUp(manyDevice(i)))
		check(t, right.AddKernelVXLAN(lab.KernelVXLAN{
			Name: manyDevice(i), VNI: uint32(manyVNI(i)), Local: right.V4, Remote: left.V4, MTU: 1450,
		}))
		check(t, right.AddAddr(manyDevice(i), netip.PrefixFrom(manyAddr(i, 2).addr, 24)))
	}

	eachTunnel(func(i int) { pingAndDatagrams(t, left, right, i) })
	if t.Failed() {
		t.FailNow()
	}
	// Then bulk on all of them at the same time, both ways.
	var pairs [][2]node
	for i := 1; i <= manyTunnels; i++ {
		l, r := manyAddr(i, 1), manyAddr(i, 2)
		l.Node, r.Node = left.Node, right.Node
		pairs = append(pairs, [2]node{l, r}, [2]node{r, l})
	}
	quietBulk(t, pairs, 1<<20)

	busy := procStatus(t, p.pid)
	r := p.report(t)
	if len(r.Tunnels) != manyTunnels {
		t.Fatalf("the engine has %d tunnels", len(r.Tunnels))
	}
	for _, s := range r.Tunnels {
		if s.Rx.Bytes < 1<<20 || s.Tx.Bytes < 1<<20 || s.Err != "" {
			t.Errorf("VNI %v carried %d bytes in, %d out, error %q", s.VNI, s.Rx.Bytes, s.Tx.Bytes, s.Err)
		}
	}
	floodTunnels(t, right, left.V4)
	flooded := procStatus(t, p.pid)
	if after := p.report(t); after.Stats.Drops["unknown_vni"] == 0 || after.Stats.Drops["header_no_vni"] == 0 || after.Tunnels[0].Drops["frame_short"] == 0 {
		t.Errorf("the flood was counted as %v, %v", after.Stats.Drops, after.Tunnels[0].Drops)
	}
	before := cpuTime(t, p.pid)
	time.Sleep(idleTime)
	cpu := (cpuTime(t, p.pid) - before).Seconds() / idleTime.Seconds()
	idle := procStatus(t, p.pid)

	t.Logf("%d tunnels: RSS %d MiB without traffic, at most %d MiB under traffic, at most %d MiB under a flood, %d MiB after it; "+
		"%d goroutines, %d threads, %d descriptors; %.2f %% of one CPU idle",
		manyTunnels, fresh.rss>>20, busy.peak>>20, flooded.peak>>20, idle.rss>>20, r.Goroutines, idle.threads, idle.descriptors, cpu*100)
	for what, n := range map[string]int64{"under traffic": busy.peak, "under a flood": flooded.peak, "idle": idle.rss} {
		if n >= manyMaxRSS {
			t.Errorf("RSS %s is %d MiB, want less than %d", what, n>>20, manyMaxRSS>>20)
		}
	}
	if cpu > maxIdleCPU {
		t.Errorf("idle, the process takes %.1f %% of a CPU", cpu*100)
	}
}

// floodDatagrams is how many of each kind a flood has: enough to fill every buffer
// on the way many times over.
const floodDatagrams = 20_000

// floodTunnels sends what no tunnel wants, as fast as one sender can.
func floodTunnels(t *testing.T, from *lab.UnderlayHost, to netip.Addr) {
	t.Helper()
	noise := make([]byte, 1400)
	copy(noise[8:], "noise")
	unknown := vxlanDatagram(9, noise)
	short := vxlanDatagram(manyVNI(1), noise[:13])
	check(t, from.Do(func() error {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, encap.DefaultPort)))
		if err != nil {
			return err
		}
		defer c.Close()
		for range floodDatagrams {
			for _, d := range [][]byte{noise, unknown, short} {
				if _, err := c.Write(d); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// eachTunnel calls f for every tunnel, several at a time.
func eachTunnel(f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := 1; i <= manyTunnels; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
}

// pingAndDatagrams uses one tunnel a little, both ways. It runs beside others of
// its kind, so it reports without ending the test.
func pingAndDatagrams(t *testing.T, left, right *lab.UnderlayHost, i int) {
	ctx := within(t, time.Minute)
	err := func() error {
		var p *traffic.Pinger
		var sink *traffic.UDPSink
		var s *traffic.UDPSender
		err := left.Do(func() (err error) {
			if p, err = traffic.NewPinger(manyAddr(i, 1).addr, manyAddr(i, 2).addr); err != nil {
				return err
			}
			sink, err = traffic.ListenUDP(netip.AddrPortFrom(manyAddr(i, 1).addr, 0))
			return err
		})
		if err != nil {
			return err
		}
		defer p.Close()
		defer sink.Close()
		for _, size := range []int{0, 56, 1422} {
			if _, err := p.Ping(ctx, size); err != nil {
				return err
			}
		}
		if err := right.Do(func() (err error) { s, err = traffic.DialUDP(netip.Addr{}, sink.Addr()); return err }); err != nil {
			return err
		}
		defer s.Close()
		if err := s.SendAll(ctx, sink, []int{16, 100, 1000, 1422}, 4, 10*time.Second); err != nil {
			return err
		}
		if got := sink.Stats(); got.Received != 4 {
			return fmt.Errorf("of 4 datagrams arrived %+v", got)
		}
		return nil
	}()
	if err != nil {
		t.Errorf("tunnel %d: %v", i, err)
	}
}

// manyProcess is the engine's process as the test holds it.
type manyProcess struct {
	pid int
	in  io.WriteCloser
	out *bufio.Reader
}

func startManyTunnels(t testing.TB, n *lab.UnderlayHost, remote netip.Addr) *manyProcess {
	t.Helper()
	// Not the test's context: the process is asked to end, in Cleanup.
	cmd := n.Command(context.Background(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+roleManyTunnels, roleManyRemote+"="+remote.String())
	cmd.Stderr = os.Stderr
	in := must(cmd.StdinPipe())(t)
	out := must(cmd.StdoutPipe())(t)
	check(t, cmd.Start())
	p := &manyProcess{pid: cmd.Process.Pid, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the engine's process: %v", err)
		}
	})
	if line := must(p.out.ReadString('\n'))(t); line != "ready\n" {
		t.Fatalf("the engine's process says %q", line)
	}
	return p
}

func (p *manyProcess) report(t *testing.T) manyReport {
	t.Helper()
	must(io.WriteString(p.in, "report\n"))(t)
	var r manyReport
	check(t, json.Unmarshal(must(p.out.ReadBytes('\n'))(t), &r))
	return r
}
