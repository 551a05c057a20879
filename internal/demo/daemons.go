// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"kohaku/conf"
	"kohaku/internal/api"
	"kohaku/internal/lab"
)

const (
	readyTimeout = 15 * time.Second
	stopTimeout  = 5 * time.Second
	shownLogs    = 12 // last lines of a log, when a step fails
)

// daemon is a kohaku process on a machine.
type daemon struct {
	name string // machine's name
	cmd  *lab.Cmd
	log  string // file with its standard error
	done chan struct{}
	err  error // how it ended; read after done
	once sync.Once
}

// startDaemon writes the settings file and starts the program on a machine, as
// a supervisor would: with a notification socket, its log in a file. It returns
// when the daemon says that it is ready.
func (r *run) startDaemon(ctx context.Context, machine int, role, settings string, args ...string) (time.Duration, error) {
	m := r.underlay.Hosts[machine]
	file := r.path(m.Name() + ".toml")
	if err := os.WriteFile(file, []byte(settings), 0o644); err != nil {
		return 0, err
	}
	d := &daemon{name: m.Name(), log: r.path(m.Name() + ".log"), done: make(chan struct{})}
	out, err := os.Create(d.log)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	if r.notify == nil {
		if r.notify, err = newNotifySocket(r.path("notify")); err != nil {
			return 0, err
		}
	}
	start := time.Now()
	// Not ctx: an end in order, with SIGTERM, is one of the steps.
	d.cmd = r.command(context.Background(), m, append([]string{role, "--config", file}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = out, out
	d.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+r.notify.path, "PATH="+toolPath())
	if err := d.cmd.Start(); err != nil {
		return 0, fmt.Errorf("start kohaku %s: %w", role, err)
	}
	r.daemons = append(r.daemons, d)
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	if err := r.notify.waitReady(ctx, d); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// command prepares kohaku on a machine. Its first argument is what ps shows.
func (r *run) command(ctx context.Context, m *lab.UnderlayHost, args ...string) *lab.Cmd {
	c := m.Command(ctx, r.Program, args...)
	c.Args[0] = "kohaku"
	return c
}

func (r *run) path(name string) string { return filepath.Join(r.dir, name) }

// toolPath is PATH with the directories in which iptables lies, which ordinary
// users often do not have.
func toolPath() string { return os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin" }

func (r *run) startHost(ctx context.Context) ([]string, error) {
	took, err := r.startDaemon(ctx, theHost, "host", fmt.Sprintf(`[host]
bind = "0.0.0.0:%d"
state_dir = %q

[heartbeat]
interval = "1s"
`, conf.DefaultAPIPort, r.path("host-state")))
	if err != nil {
		return nil, err
	}
	return []string{fmt.Sprintf("ready after %.2f s, API at %s", took.Seconds(), r.apiAddr())}, nil
}

func (r *run) startRunners(ctx context.Context) ([]string, error) {
	token, err := r.newToken(ctx)
	if err != nil {
		return nil, err
	}
	detail := []string{"each joins with the Host's token and gets a credential of its own; all calls are TLS"}
	for _, machine := range []int{runner1, runner2} {
		name := machineNames[machine]
		took, err := r.startDaemon(ctx, machine, "runner", fmt.Sprintf(`[runner]
host = %q
state_dir = %q

[docker]
enabled = false
`, r.apiAddr(), r.path(name+"-state")), "--join", token)
		if err != nil {
			return detail, err
		}
		detail = append(detail, fmt.Sprintf("%s ready after %.2f s", name, took.Seconds()))
	}
	s, err := r.askStatus(ctx)
	if err != nil {
		return detail, err
	}
	if s.Stats.ActiveAllocations != 2 {
		return detail, fmt.Errorf("the Host counts %d active runners instead of 2", s.Stats.ActiveAllocations)
	}
	for _, a := range s.Allocations {
		detail = append(detail, fmt.Sprintf("%s got id %d, subnet %s; tunnel %s, VNI %d", a.RunnerName, a.RunnerID, a.Subnet, a.VXLANDevice, a.VNI))
	}
	return detail, nil
}

func (r *run) apiAddr() string {
	return fmt.Sprintf("%s:%d", r.underlay.Hosts[theHost].V4, conf.DefaultAPIPort)
}

// socket is the Host's admin socket: the demo is root on the Host.
func (r *run) socket() string { return "unix:" + r.path("host-state/host.sock") }

// newToken has the Host make a token, as a person on the Host would.
func (r *run) newToken(ctx context.Context) (string, error) {
	out, err := r.kohaku(ctx, theHost, "token", "new", "--uses", "2", "--json", "--host", r.socket())
	if err != nil {
		return "", err
	}
	var t api.NewToken
	return t.Secret, unmarshal(out, &t)
}

// askStatus asks the Host.
func (r *run) askStatus(ctx context.Context) (s api.Status, err error) {
	out, err := r.kohaku(ctx, theHost, "status", "--json", "--host", r.socket())
	if err != nil {
		return s, err
	}
	return s, unmarshal(out, &s)
}

// stopDaemons ends all daemons as a supervisor does and wants exit status 0.
func (r *run) stopDaemons(context.Context) ([]string, error) {
	start := time.Now()
	for _, d := range r.daemons {
		if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return nil, err
		}
	}
	var errs []error
	timeout := time.After(stopTimeout)
	for _, d := range r.daemons {
		select {
		case <-d.done:
			if d.err != nil {
				errs = append(errs, fmt.Errorf("kohaku on %s: %w", d.name, d.err))
			}
		case <-timeout:
			return nil, fmt.Errorf("kohaku on %s still runs %s after SIGTERM", d.name, stopTimeout)
		}
	}
	return []string{fmt.Sprintf("all %d within %.2f s, exit status 0", len(r.daemons), time.Since(start).Seconds())}, errors.Join(errs...)
}

func (d *daemon) kill() {
	d.once.Do(func() {
		_ = d.cmd.Process.Kill() // an error says that it has ended
		<-d.done
	})
}

// lastLogs is the end of each daemon's log, for a step that failed.
func (r *run) lastLogs() []string {
	var out []string
	for _, d := range r.daemons {
		b, err := os.ReadFile(d.log)
		if err != nil {
			out = append(out, margin+"log of "+d.name+": "+err.Error())
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		lines = lines[max(0, len(lines)-shownLogs):]
		out = append(out, margin+"last lines of the log of "+d.name+":")
		for _, l := range lines {
			out = append(out, margin+"  "+l)
		}
	}
	return out
}

// notifySocket receives the daemons' sd_notify messages (sd_notify(3)): one
// datagram each, lines of KEY=VALUE. A file system socket is reached from every
// network namespace. Daemons start one after the other, so a READY=1 is that of
// the last one started.
type notifySocket struct {
	path string
	conn *net.UnixConn
}

func newNotifySocket(path string) (*notifySocket, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	return &notifySocket{path, conn}, nil
}

func (n *notifySocket) close() { n.conn.Close() }

// waitReady waits for READY=1, for the daemon's end, or for the context's.
func (n *notifySocket) waitReady(ctx context.Context, d *daemon) error {
	buf := make([]byte, 4096)
	for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); {
		select {
		case <-d.done:
			return fmt.Errorf("kohaku on %s ended before it was ready: %w", d.name, orExited(d.err))
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if err := n.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			return err
		}
		got, err := n.conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(buf[:got])) {
			if strings.TrimSpace(line) == "READY=1" {
				return nil
			}
		}
	}
	return fmt.Errorf("kohaku on %s did not become ready within %s", d.name, readyTimeout)
}

func orExited(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}
