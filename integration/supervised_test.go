// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/internal/lab"
	"kohaku/internal/lab/traffic"
)

// The topology is that of cluster_test.go. The Host runs under something that does
// what systemd does; the Runners run as everywhere.
func newSupervised(t *testing.T) (*cluster, *systemd) {
	t.Helper()
	k := newCluster(t, lab.UnderlayConfig{})
	s := newSystemd(t, k.Hosts[theHost].Node, "host", "--config", k.config[theHost])
	s.start()
	k.start(runner1)
	k.start(runner2)
	k.waitActive("runner1", "runner2")
	return k, s
}

// The store keeps the tunnel devices' carrier while the Host is started anew, in
// order or not, under load; the next process takes them over as they are, and what
// a stream had under way is repaired by TCP.
func TestDescriptorStore(t *testing.T) {
	k, s := newSupervised(t)
	k.attachBoxes()
	k.checkReach()
	for _, d := range []string{"vxkr1", "vxkr2"} {
		eventually(t, 10*time.Second, "the store", func() error {
			if n := s.stored(d); n == 0 {
				return fmt.Errorf("%d descriptors of %s", n, d)
			}
			return nil
		})
	}
	to := k.boxAddr(1)
	sink := closeAfter(t, open(t, k.boxes[1], func() (*traffic.TCPSink, error) {
		return traffic.ListenTCP(netip.AddrPortFrom(to, 0))
	}))
	stream := open(t, k.boxes[0], func() (*traffic.TCPStream, error) {
		return traffic.DialTCP(within(t, time.Minute), netip.Addr{}, sink.Addr())
	})
	defer stream.Close()
	stop, result := make(chan struct{}), make(chan error, 1)
	go func() {
		r, err := stream.SendUntil(t.Context(), 1, stop)
		if err == nil && r.Bytes == 0 {
			err = fmt.Errorf("nothing was sent")
		}
		result <- err
	}()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		before := k.rx(sink)
		_ = s.end(sig) // "signal: killed"
		for _, d := range []string{"vxkr1", "vxkr2"} {
			if !k.carrier(theHost, d) {
				t.Errorf("after %v %s has no carrier", sig, d)
			}
		}
		start := time.Now()
		s.start()
		ready := time.Since(start)
		eventually(t, 20*time.Second, "traffic after "+sig.String(), func() error {
			if k.rx(sink) <= before+1<<20 {
				return fmt.Errorf("no more than a megabyte came")
			}
			return nil
		})
		t.Logf("%v: ready after %v, traffic after %v", sig, ready.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
		if log := s.waitLog("VXLAN device found from an earlier run"); log["KOHAKU_RUNNER"] == "" {
			t.Errorf("fields of the log: %v", log)
		}
	}
	close(stop)
	if err := <-result; err != nil {
		t.Errorf("the stream over two restarts: %v", err)
	}
	// A device that is deleted is made anew, and the store has the new one.
	k.delete(theHost, "vxkr1")
	k.checkReach()
	eventually(t, 10*time.Second, "the store", func() error { // it is told once the tunnel is up
		if s.stored("vxkr1") == 0 {
			return errors.New("nothing of the new vxkr1")
		}
		return nil
	})
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Errorf("ended with %v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.states[len(s.states)-1]; last != "STOPPING=1" && !strings.Contains(strings.Join(s.states, "|"), "STOPPING=1") {
		t.Errorf("the last it said is %q", last)
	}
}

// What systemd and the admin see of a Host: status, watchdog, journal, reload,
// metrics, health.
func TestSupervised(t *testing.T) {
	k, s := newSupervised(t)
	k.attachBoxes()
	k.checkReach()
	s.wait("STATUS=2 of 2 runners active, problems: 0")
	s.wait("WATCHDOG=1")
	line := s.waitLog("runner joined")
	if line["KOHAKU_RUNNER"] == "" || line["PRIORITY"] != "6" || line["SYSLOG_IDENTIFIER"] != "kohaku-host" {
		t.Errorf("the journal got %v", line)
	}

	for machine, want := range map[int][]string{
		theHost: {
			`kohaku_tunnel_receive_frames_total{device="vxkr1",runner="runner1"} [1-9]`,
			`kohaku_tunnel_transmit_bytes_total{device="vxkr2",runner="runner2"} [1-9]`,
			`kohaku_host_allocations{state="active"} 2`,
			`kohaku_host_runner_heartbeat_age_seconds{runner="runner1"} [0-9]`,
			`kohaku_api_request_duration_seconds_count{call="PUT /api/heartbeat/{hostname}",code="200"} [1-9]`,
			`kohaku_reconcile_actions_total{action="alias"} [1-9]`,
			`kohaku_engine_socket_dropped_datagrams_total `, `kohaku_engine_read_frames_count [1-9]`, `kohaku_firewall_repairs_total 0`,
		},
		runner1: {
			`kohaku_tunnel_receive_frames_total{device="vxlan0",runner="runner1"} [1-9]`,
			`kohaku_runner_joined 1`, `kohaku_runner_host_request_duration_seconds_count{call="heartbeat",code="200"} [1-9]`,
			`kohaku_reconcile_actions_total{action="bridge"} 1`,
		},
	} {
		port := map[int]int{theHost: 8003, runner1: 8004}[machine]
		// The first heartbeat may not have come yet.
		eventually(t, 20*time.Second, fmt.Sprintf("metrics of machine %d", machine), func() error {
			code, body := k.get(machine, fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
			for _, w := range want {
				pattern := "(?m)^" + strings.NewReplacer("{", `\{`, "}", `\}`).Replace(w)
				if !regexp.MustCompile(pattern).MatchString(body) {
					return fmt.Errorf("status %d, no %s", code, w)
				}
			}
			return nil
		})
		if code, body := k.get(machine, fmt.Sprintf("http://127.0.0.1:%d/healthz", port)); code != 200 || !strings.Contains(body, `"ok"`) {
			t.Errorf("healthz of machine %d: %d %s", machine, code, body)
		}
	}
	// The API's port serves them, too.
	if code, body := k.get(theHost, fmt.Sprintf("http://127.0.0.1:%d/metrics", apiPort)); code != 200 || !strings.Contains(body, "kohaku_tunnel_up") {
		t.Errorf("metrics at the API: %d", code)
	}

	// A reload: what can be applied is, what cannot is named, what is wrong changes
	// nothing.
	good := string(must(os.ReadFile(k.config[theHost]))(t))
	s.forget()
	changed := strings.Replace(good, fmt.Sprintf("interval = %q", heartbeat), `interval = "300ms"`, 1)
	changed = strings.Replace(changed, "[host]\n", "[host]\nlog_level = \"debug\"\n", 1) + "\n[overlay]\nmtu = 1300\n"
	check(t, os.WriteFile(k.config[theHost], []byte(changed), 0o644))
	s.signal(syscall.SIGHUP)
	s.waitLog("overlay.mtu changed: needs a restart")
	s.waitLog(`settings read again and applied: host.log_level = "debug", heartbeat.interval = "300ms"`)
	s.wait("RELOADING=1\nMONOTONIC_USEC=")
	s.wait("READY=1")
	eventually(t, 20*time.Second, "the Runners' new interval", func() error {
		if !strings.Contains(k.daemons[runner1].log(), "the Host's settings have changed") {
			return fmt.Errorf("runner1 has not noticed")
		}
		return nil
	})
	s.forget()
	check(t, os.WriteFile(k.config[theHost], []byte("[host\n"), 0o644))
	s.signal(syscall.SIGHUP)
	s.waitLog("all stays as it was")
	k.waitActive("runner1", "runner2")
	check(t, os.WriteFile(k.config[theHost], []byte(good), 0o644))

	// Health: a Runner without its Host goes on, and says so when it lasts.
	if err := s.end(syscall.SIGTERM); err != nil {
		t.Errorf("ended with %v", err)
	}
	eventually(t, 20*time.Second, "the Runner's metrics", func() error {
		if _, body := k.get(runner1, "http://127.0.0.1:8004/metrics"); !strings.Contains(body, "\nkohaku_runner_joined 0") {
			return fmt.Errorf("it still calls itself joined")
		}
		return nil
	})
	// kohaku reset refuses to work against a daemon, and takes all with it after.
	k.resetRefused(runner1)
	k.stop(runner1)
	k.reset(runner1)
}

// Status lines for those who have no terminal.
func TestStatusWatch(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	defer cancel()
	cmd := k.Hosts[theHost].Command(ctx, must(kohakuBinary())(t), "status", "--watch", "--interval", "100ms", "--host", fmt.Sprintf("127.0.0.1:%d", apiPort))
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	check(t, cmd.Start())
	line := regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d runner2 active seen=\d+s rx=[0-9.]+[kMG]?bit/s tx=[0-9.]+[kMG]?bit/s rx_frames=\S+/s tx_frames=\S+/s drops=0/s$`)
	eventually(t, 20*time.Second, "rates", func() error {
		if len(line.FindAllString(out.String(), 2)) < 2 {
			return fmt.Errorf("printed:\n%s", out)
		}
		return nil
	})
	check(t, cmd.Process.Signal(syscall.SIGINT))
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended by Ctrl-C with %v", err)
	}
}

// get makes a plain HTTP request on a machine.
func (k *cluster) get(machine int, url string) (code int, body string) {
	k.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = k.Hosts[machine].Do(func() (err error) { c, err = (&net.Dialer{}).DialContext(ctx, network, addr); return err })
		return c, err
	}}
	req := must(http.NewRequestWithContext(within(k.t, 10*time.Second), http.MethodGet, url, nil))(k.t)
	res := must((&http.Client{Transport: transport}).Do(req))(k.t)
	defer res.Body.Close()
	return res.StatusCode, string(must(io.ReadAll(res.Body))(k.t))
}

// rx is what a TCP sink has received.
func (k *cluster) rx(sink *traffic.TCPSink) uint64 {
	k.t.Helper()
	// The kernel's count of the container's device: the sink tells only at the end.
	var n uint64
	check(k.t, k.boxes[1].Do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(b)) {
			if name, rest, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && name == "eth0" {
				n, err = strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
				return err
			}
		}
		return fmt.Errorf("no eth0")
	}))
	return n
}

func (k *cluster) carrier(machine int, device string) bool {
	k.t.Helper()
	l := must(k.Hosts[machine].Handle().LinkByName(device))(k.t)
	return l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

func (k *cluster) delete(machine int, device string) {
	k.t.Helper()
	check(k.t, k.Hosts[machine].Handle().LinkDel(must(k.Hosts[machine].Handle().LinkByName(device))(k.t)))
}

func (k *cluster) resetRefused(machine int) {
	k.t.Helper()
	out, err := k.Hosts[machine].Command(within(k.t, time.Minute), must(kohakuBinary())(k.t), "reset").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "a kohaku daemon is at work on vxlan0") {
		k.t.Errorf("reset beside a daemon: %v\n%s", err, out)
	}
}

// reset runs kohaku reset on a machine that a container's veth may hold, and looks
// at what is left.
func (k *cluster) reset(machine int) {
	k.t.Helper()
	run := func(args ...string) string {
		k.t.Helper()
		out, err := k.Hosts[machine].Command(within(k.t, time.Minute), must(kohakuBinary())(k.t), append([]string{"reset"}, args...)...).CombinedOutput()
		if code := exitCode(err); code != 0 && code != 3 {
			k.t.Fatalf("reset: %v\n%s", err, out)
		}
		return string(out)
	}
	if out := run("--dry-run"); !strings.Contains(out, "would be removed: device vxlan0") || !strings.Contains(out, "would be removed: firewall ") {
		k.t.Errorf("a dry run says:\n%s", out)
	}
	if out := run(); !strings.Contains(out, "removed: device vxlan0") || !strings.Contains(out, "left: device kohaku-overlay: it is in use by vethbox1") {
		k.t.Errorf("with a container there, reset says:\n%s", out)
	}
	k.delete(machine, "vethbox1")
	if out := run(); !strings.Contains(out, "removed: device kohaku-overlay") {
		k.t.Errorf("reset says:\n%s", out)
	}
	links := must(k.Hosts[machine].Handle().LinkList())(k.t)
	for _, l := range links {
		if strings.Contains(l.Attrs().Alias, "kohaku") {
			k.t.Errorf("left: %s", l.Attrs().Name)
		}
	}
	rules := must(k.Hosts[machine].Command(within(k.t, time.Minute), "iptables-save").CombinedOutput())(k.t)
	if strings.Contains(string(rules), "kohaku") {
		k.t.Errorf("rules are left:\n%s", rules)
	}
	if out := run(); !strings.Contains(out, "nothing of kohaku's is on this machine") {
		k.t.Errorf("the last reset says:\n%s", out)
	}
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := err.(interface{ ExitCode() int }); ok {
		return e.ExitCode()
	}
	return -1
}
