// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
)

// A Host and two Runners, each a machine with the daemon of the built program,
// and a container on each Runner:
//
//	box1 10.1.0.2                                        box2 10.2.0.2
//	  |                                                    |
//	+-+--------------+   +------------------------+   +----+-----------+
//	| kohaku-overlay |   | kohaku-host  10.0.0.1  |   | kohaku-overlay |
//	|   10.1.0.1     |   | vxkr1      10.1.0.254  |   |   10.2.0.1     |
//	| vxlan0         |   | vxkr2      10.2.0.254  |   | vxlan0         |
//	| runner1        |   | host                   |   | runner2        |
//	+-+--------------+   +---+--------------------+   +----+-----------+
//	  | eth0 192.0.2.2       | eth0 192.0.2.1              | eth0 192.0.2.3
//	  +------------------- switch -------------------------+
//	                         | eth0 192.0.2.4
//	                      outside, which knows nothing of the overlay
const (
	theHost = iota
	runner1
	runner2
	outside
)

const (
	apiPort       = 8000
	heartbeat     = 200 * time.Millisecond
	timeoutFactor = 3
)

// cluster is the machines with what runs on them.
type cluster struct {
	*lab.Underlay
	t       *testing.T
	dir     string
	config  [3]string // settings files of host, runner1, runner2
	daemons [3]*daemon
	boxes   [2]*lab.Node
}

// newCluster builds the machines and writes the settings, to which engine is
// appended. No daemon runs yet.
func newCluster(t *testing.T, c lab.UnderlayConfig, engine ...string) *cluster {
	t.Helper()
	extra := strings.Join(engine, "\n")
	c.Names = []string{"host", "runner1", "runner2", "outside"}
	k := &cluster{Underlay: newUnderlay(t, c), t: t, dir: t.TempDir()}
	k.config[theHost] = k.write("host.toml", fmt.Sprintf(`[host]
bind = "0.0.0.0:%d"
join = "open"
state_dir = %q

[heartbeat]
interval = %q
timeout_factor = %d

%s
`, apiPort, k.dir+"/host", heartbeat, timeoutFactor, extra))
	for _, i := range []int{runner1, runner2} {
		name := k.Hosts[i].Name()
		k.config[i] = k.write(name+".toml", fmt.Sprintf(`[runner]
host = "%s:%d"
state_dir = %q

[docker]
enabled = false

%s
`, k.Hosts[theHost].V4, apiPort, filepath.Join(k.dir, name), extra))
	}
	return k
}

func (k *cluster) write(name, content string) string {
	path := filepath.Join(k.dir, name)
	check(k.t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// startAll starts the three daemons and waits until both Runners are joined.
func (k *cluster) startAll() {
	k.t.Helper()
	for i := range k.daemons {
		k.start(i)
	}
	k.waitActive("runner1", "runner2")
}

// start starts a machine's daemon and waits until it says that it is ready.
func (k *cluster) start(machine int) {
	k.t.Helper()
	k.daemons[machine] = k.launch(machine)
	k.daemons[machine].waitReady()
}

// launch starts a machine's daemon.
func (k *cluster) launch(machine int) *daemon {
	k.t.Helper()
	role := "runner"
	if machine == theHost {
		role = "host"
	}
	return launch(k.t, k.Hosts[machine].Node, role, "--config", k.config[machine])
}

// stop ends a machine's daemon with SIGTERM and returns how long that took. It
// wants exit status 0.
func (k *cluster) stop(machine int) time.Duration {
	k.t.Helper()
	start := time.Now()
	if err := k.daemons[machine].end(syscall.SIGTERM); err != nil {
		k.t.Errorf("%s ended with %v after SIGTERM\n%s", k.Hosts[machine].Name(), err, k.daemons[machine].log())
	}
	return time.Since(start)
}

// kill ends a machine's daemon with SIGKILL.
func (k *cluster) kill(machine int) {
	k.t.Helper()
	_ = k.daemons[machine].end(syscall.SIGKILL) // "signal: killed"
}

// waitActive waits until the Host knows exactly these Runners as active.
func (k *cluster) waitActive(names ...string) {
	k.t.Helper()
	eventually(k.t, 20*time.Second, "waiting for the Runners "+strings.Join(names, ", "), func() error {
		s, err := k.status()
		if err != nil {
			return err
		}
		var active []string
		for _, a := range s.Allocations {
			if a.IsActive {
				active = append(active, a.RunnerName)
			}
		}
		if strings.Join(active, " ") != strings.Join(names, " ") {
			return fmt.Errorf("active are %v", active)
		}
		return nil
	})
}

// status asks the Host's API.
func (k *cluster) status() (s api.Status, err error) {
	err = k.call(http.MethodGet, api.PathStatus, &s)
	return s, err
}

// call makes one call of the Host's API, from the Host.
func (k *cluster) call(method, path string, answer any) error {
	return k.send(method, path, nil, answer)
}

// send is call with a body; nil: none.
func (k *cluster) send(method, path string, body, answer any) error {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(data)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
			err = k.Hosts[theHost].Do(func() (err error) { c, err = (&net.Dialer{}).DialContext(ctx, network, addr); return err })
			return c, err
		},
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://127.0.0.1:%d%s", apiPort, path), payload)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, path, res.Status, text)
	}
	return json.Unmarshal(text, answer)
}

// allocation is what the Host says of one Runner.
func (k *cluster) allocation(name string) api.Allocation {
	k.t.Helper()
	for _, a := range must(k.status())(k.t).Allocations {
		if a.RunnerName == name {
			return a
		}
	}
	k.t.Fatalf("the Host has no allocation for %s", name)
	return api.Allocation{}
}

// attachBoxes plugs a container into each Runner's bridge.
func (k *cluster) attachBoxes() {
	k.t.Helper()
	n := must(lab.NewNet())(k.t)
	k.t.Cleanup(func() {
		if err := n.Close(); err != nil {
			k.t.Error(err)
		}
	})
	for i, m := range []int{runner1, runner2} {
		a := k.allocation(k.Hosts[m].Name())
		box := must(n.Node(fmt.Sprintf("box%d", i+1)))(k.t)
		_, end, err := lab.Connect(box, "eth0", k.Hosts[m].Node, "veth"+box.Name(), a.MTU)
		check(k.t, err)
		check(k.t, k.Hosts[m].AddPort("kohaku-overlay", end.Name))
		check(k.t, box.AddAddr("eth0", netip.PrefixFrom(a.Gateway.Next(), a.Subnet.Bits())))
		check(k.t, box.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), a.Gateway))
		check(k.t, box.WaitUp(within(k.t, 20*time.Second), "eth0"))
		k.boxes[i] = box
	}
}

// boxAddr is a container's address: the one after its gateway's.
func (k *cluster) boxAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(k.allocation(k.Hosts[runner1+i].Name()).RunnerID), 0, 2})
}

// checkReach pings along every path that a container has: to the other one, to
// the Host, out of its Runner.
func (k *cluster) checkReach() {
	k.t.Helper()
	for i := range k.boxes {
		for _, to := range []netip.Addr{k.boxAddr(1 - i), netip.MustParseAddr("10.0.0.1"), k.Hosts[outside].V4} {
			p := open(k.t, k.boxes[i], func() (*traffic.Pinger, error) { return traffic.NewPinger(netip.Addr{}, to) })
			// The first one may go lost while neighbours are looked for.
			eventually(k.t, 20*time.Second, fmt.Sprintf("box%d to %s", i+1, to), func() error {
				ctx, cancel := context.WithTimeout(k.t.Context(), time.Second)
				defer cancel()
				_, err := p.Ping(ctx, 56)
				return err
			})
			p.Close()
		}
	}
}

// daemon is a process of the program, supervised as systemd would.
type daemon struct {
	t      *testing.T
	cmd    *lab.Cmd
	name   string
	errOut *lockedBuffer
	notify *net.UnixConn
	done   chan struct{}
	err    error // how it ended; after done
}

// launch starts the program on a machine. It ends with the test at the latest.
func launch(t *testing.T, n *lab.Node, args ...string) *daemon {
	t.Helper()
	return launchProgram(t, n, nil, must(kohakuBinary())(t), args...)
}

// launchProgram starts a program on a machine, with more in its environment.
func launchProgram(t *testing.T, n *lab.Node, env []string, program string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, name: strings.Join(args[:1], " ") + " on " + n.Name(), errOut: &lockedBuffer{}, done: make(chan struct{})}
	socket := filepath.Join(must(os.MkdirTemp("", "notify"))(t), "s")
	var err error
	d.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	check(t, err)
	// Not the test's context: a daemon ends in order.
	d.cmd = n.Command(context.Background(), program, args...)
	d.cmd.Stdout, d.cmd.Stderr = d.errOut, d.errOut
	d.cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+socket), env...)
	check(t, d.cmd.Start())
	go func() {
		d.err = d.cmd.Wait()
		// With it go the descriptors that were passed to a supervisor and that
		// nobody has taken; they would keep the devices in use.
		d.notify.Close()
		close(d.done)
	}()
	t.Cleanup(func() {
		_ = d.end(syscall.SIGKILL) // has ended, or is not needed any more
		d.notify.Close()
		if t.Failed() {
			log, _, _ := strings.Cut(d.log(), "SIGQUIT: quit") // stacks were asked for, and are many
			t.Logf("%s said:\n%s", d.name, log)
		}
	})
	return d
}

func (d *daemon) log() string { return d.errOut.String() }

func (d *daemon) pid() int { return d.cmd.Process.Pid }

// waitReady waits for READY=1 (sd_notify(3)).
func (d *daemon) waitReady() {
	d.t.Helper()
	buf := make([]byte, 4096)
	eventually(d.t, 20*time.Second, d.name, func() error {
		select {
		case <-d.done:
			d.t.Fatalf("%s ended before it was ready: %v\n%s", d.name, d.err, d.log())
		default:
		}
		check(d.t, d.notify.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		// Of what else is said before, such as descriptors to keep, there may be
		// much, and who says it waits for its reader.
		for {
			n, err := d.notify.Read(buf)
			if err != nil {
				return fmt.Errorf("not ready yet: %w\n%s", err, d.log())
			}
			if strings.Contains(string(buf[:n]), "READY=1") {
				check(d.t, d.notify.SetReadDeadline(time.Time{}))
				go d.drain()
				return nil
			}
		}
	})
}

// drain reads on, as a supervisor does, until the process has ended.
func (d *daemon) drain() {
	buf := make([]byte, 4096)
	for {
		if _, err := d.notify.Read(buf); err != nil {
			return
		}
	}
}

// end sends a signal and returns how the process ended.
func (d *daemon) end(s syscall.Signal) error { return endProcess(d.cmd.Process, s, d.done, &d.err) }

// endProcess sends a signal and waits for done, after which err is how the process
// ended.
func endProcess(p *os.Process, s syscall.Signal, done <-chan struct{}, err *error) error {
	if err := p.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-done:
		return *err
	case <-time.After(20 * time.Second):
		return errors.New("it still runs after 20 s")
	}
}

// lockedBuffer collects a process's output while it may be read.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
