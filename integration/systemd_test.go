// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kohaku/internal/lab"
)

// systemd stands for the service manager: it keeps what a daemon puts into its
// store and passes it to the next one, and it is the journal. It is where the real
// one would be, in a /run that is the lab's own.
type systemd struct {
	t    *testing.T
	node *lab.Node
	args []string // of the program

	notify, journal *net.UnixConn
	stderr          *os.File // connected with the journal, as far as JOURNAL_STREAM says
	cmd             *lab.Cmd
	done            chan struct{}
	err             error // how it ended; after done
	reading         sync.WaitGroup

	mu     sync.Mutex
	states []string         // what the daemon said, in order
	store  map[string][]int // descriptors by name
	lines  []map[string]string
}

const journalSocket = "/run/systemd/journal/socket"

func newSystemd(t *testing.T, n *lab.Node, args ...string) *systemd {
	t.Helper()
	s := &systemd{t: t, node: n, args: args, store: make(map[string][]int)}
	listen := func(path string) *net.UnixConn {
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		return must(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}))(t)
	}
	s.notify, s.journal = listen(filepath.Join(t.TempDir(), "notify")), listen(journalSocket)
	s.stderr = must(os.Create(filepath.Join(t.TempDir(), "stderr")))(t)
	s.reading.Go(func() { s.receive(s.notify, s.told) })
	s.reading.Go(func() { s.receive(s.journal, s.logged) })
	t.Cleanup(func() {
		if s.cmd != nil {
			_ = s.end(syscall.SIGKILL)
		}
		s.notify.Close()
		s.journal.Close()
		s.reading.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, fds := range s.store {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
		s.stderr.Close()
		os.RemoveAll(filepath.Dir(journalSocket))
		if t.Failed() {
			rest, _ := os.ReadFile(s.stderr.Name())
			t.Logf("%s said:\n%s%s", strings.Join(args[:1], " "), s.textLocked(), rest)
		}
	})
	return s
}

// receive passes on what comes, until the socket is closed.
func (s *systemd) receive(c *net.UnixConn, take func(data []byte, fds []int)) {
	data, oob := make([]byte, 1<<16), make([]byte, 4096)
	for {
		n, nOOB, _, _, err := c.ReadMsgUnix(data, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.t.Error(err)
			return
		}
		var fds []int
		messages, _ := unix.ParseSocketControlMessage(oob[:nOOB])
		for _, m := range messages {
			if got, err := unix.ParseUnixRights(&m); err == nil {
				fds = append(fds, got...)
			}
		}
		s.mu.Lock()
		take(data[:n], fds)
		s.mu.Unlock()
	}
}

// told takes a message of sd_notify(3). Guarded by mu.
func (s *systemd) told(data []byte, fds []int) {
	text := string(data)
	s.states = append(s.states, text)
	_, name, _ := strings.Cut(text, "FDNAME=")
	switch {
	case strings.HasPrefix(text, "FDSTORE=1"):
		s.store[name] = append(s.store[name], fds...)
	case strings.HasPrefix(text, "FDSTOREREMOVE=1"):
		for _, fd := range s.store[name] {
			unix.Close(fd)
		}
		delete(s.store, name)
	}
}

// logged takes a message of the journal's native protocol. Guarded by mu.
func (s *systemd) logged(data []byte, _ []int) {
	fields := make(map[string]string)
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		if name, value, ok := bytes.Cut(line, []byte("=")); ok {
			fields[string(name)], data = string(value), rest
			continue
		}
		n := binary.LittleEndian.Uint64(rest) // a value with newlines
		fields[string(line)], data = string(rest[8:8+n]), rest[9+n:]
	}
	s.lines = append(s.lines, fields)
}

// start starts the daemon with what is in the store, and waits until it is ready.
func (s *systemd) start() {
	s.t.Helper()
	s.mu.Lock()
	s.states = nil
	var names []string
	var files []*os.File
	for name, fds := range s.store {
		for _, fd := range fds {
			c := must(unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0))(s.t)
			files, names = append(files, os.NewFile(uintptr(c), name)), append(names, name)
		}
	}
	s.mu.Unlock()
	// LISTEN_PID is the daemon's, which is known once it is there.
	args := append([]string{"-c", `LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$@"`, "sh", must(kohakuBinary())(s.t)}, s.args...)
	s.cmd = s.node.Command(context.Background(), "/bin/sh", args...)
	info := must(s.stderr.Stat())(s.t).Sys().(*syscall.Stat_t)
	s.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+s.notify.LocalAddr().String(), "WATCHDOG_USEC=200000",
		fmt.Sprintf("JOURNAL_STREAM=%d:%d", info.Dev, info.Ino),
		fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.ExtraFiles = s.stderr, s.stderr, files
	err := s.cmd.Start()
	for _, f := range files {
		f.Close()
	}
	check(s.t, err)
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() { s.err = cmd.Wait(); close(done) }()
	s.wait("READY=1")
}

// wait waits for a message that begins like this, since the daemon was started.
func (s *systemd) wait(state string) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, strings.Join(s.args[:1], " ")+": "+state, func() error {
		select {
		case <-s.done:
			s.t.Fatalf("it has ended: %v", s.err)
		default:
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, said := range s.states {
			if strings.HasPrefix(said, state) {
				return nil
			}
		}
		return fmt.Errorf("it said %q", s.states)
	})
}

// forget forgets what was said so far.
func (s *systemd) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states, s.lines = nil, nil
}

// waitLog waits for a line of the log, and gives its fields.
func (s *systemd) waitLog(part string) (fields map[string]string) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, "the log line "+part, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, l := range s.lines {
			if strings.Contains(l["MESSAGE"], part) {
				fields = l
				return nil
			}
		}
		return errors.New("it did not come")
	})
	return fields
}

// textLocked is the log as text. Guarded by mu.
func (s *systemd) textLocked() string {
	var b strings.Builder
	for _, l := range s.lines {
		b.WriteString(l["PRIORITY"] + " " + l["MESSAGE"] + "\n")
	}
	return b.String()
}

func (s *systemd) signal(sig syscall.Signal) { check(s.t, s.cmd.Process.Signal(sig)) }

// end ends the daemon. What is in the store stays.
func (s *systemd) end(sig syscall.Signal) error {
	return endProcess(s.cmd.Process, sig, s.done, &s.err)
}

// stored is how many descriptors of a device are kept.
func (s *systemd) stored(device string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.store["tap-"+device])
}
