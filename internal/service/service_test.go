// SPDX-License-Identifier: Apache-2.0

package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"kohaku/conf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// systemd stands for the one who listens at NOTIFY_SOCKET.
type systemd struct {
	t *testing.T
	c *net.UnixConn
}

func listen(t *testing.T) *systemd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &systemd{t, c}
}

// next is the next message, with its descriptors, which the test closes.
func (s *systemd) next() (string, []int) {
	s.t.Helper()
	if err := s.c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	buf, oob := make([]byte, 4096), make([]byte, 1024)
	n, nOOB, _, _, err := s.c.ReadMsgUnix(buf, oob)
	if err != nil {
		s.t.Fatal(err)
	}
	var fds []int
	messages, err := unix.ParseSocketControlMessage(oob[:nOOB])
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			s.t.Fatal(err)
		}
		fds = append(fds, got...)
	}
	s.t.Cleanup(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
	return string(buf[:n]), fds
}

func (s *systemd) want(states ...string) {
	s.t.Helper()
	for _, want := range states {
		if got, _ := s.next(); got != want {
			s.t.Errorf("systemd is told %q, want %q", got, want)
		}
	}
}

func testLog() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), &b
}

func TestSupervisorTells(t *testing.T) {
	d := listen(t)
	log, _ := testLog()
	s := Supervised(log)
	if os.Getenv("NOTIFY_SOCKET") != "" {
		t.Error("programs that are started would find NOTIFY_SOCKET")
	}
	s.Ready()
	s.Stopping()
	d.want("READY=1", "STOPPING=1")
	s.Reloading()
	if got, _ := d.next(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("systemd is told %q", got)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { s.Run(ctx, nil); close(ended) }()
	s.Status("one")
	d.want("STATUS=one")
	s.Status("one") // nothing new
	s.Status("two")
	d.want("STATUS=two")
	end()
	<-ended
}

// Nobody is there to be told: nothing happens, and nothing panics.
func TestUnsupervised(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	log, out := testLog()
	for _, s := range []*Supervisor{nil, Supervised(log)} {
		s.Ready()
		s.Reloading()
		s.Stopping()
		s.Status("x")
		s.Run(t.Context(), nil)
		s.Hold("vxlan0", []int{0})
		if s.Held("vxlan0") != nil {
			t.Error("something is held")
		}
		s.Release()
	}
	if out.Len() > 0 {
		t.Errorf("logged: %s", out)
	}
}

func TestWatchdogStopsWhenALoopHangs(t *testing.T) {
	d := listen(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	log, _ := testLog()
	s := Supervised(log)
	if s.watchdog != 20*time.Millisecond {
		t.Fatalf("the watchdog's patience is %v", s.watchdog)
	}
	var live Live
	clock := make(chan time.Duration, 1)
	clock <- 0
	start := time.Now()
	live.now = func() time.Time { d := <-clock; clock <- d; return start.Add(d) }
	set := func(d time.Duration) { <-clock; clock <- d }
	loop := live.Loop("the reconciler")
	loop.Tick(5 * time.Second)
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { s.Run(ctx, &live); close(ended) }()
	d.want("WATCHDOG=1", "WATCHDOG=1")
	set(5*time.Second + grace + time.Second)
	// What is under way still comes; then nothing.
	quiet := 0
	for quiet < 5 {
		if err := d.c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := d.c.Read(make([]byte, 64)); errors.Is(err, os.ErrDeadlineExceeded) {
			quiet++
		}
		if t.Context().Err() != nil {
			t.Fatal("the watchdog is still answered")
		}
	}
	if late := live.Late(); len(late) != 1 || late[0] != "the reconciler hangs for 46s" {
		t.Errorf("Late: %q", late)
	}
	loop.Tick(0)
	d.want("WATCHDOG=1")
	loop.End()
	set(time.Hour)
	if late := live.Late(); len(late) != 0 {
		t.Errorf("a loop that has ended is late: %q", late)
	}
	end()
	<-ended
}

// The store over a restart: what one process puts there the next one takes, and
// what nobody takes is given up.
func TestStore(t *testing.T) {
	d := listen(t)
	log, _ := testLog()
	s := Supervised(log)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	s.Hold("vxkr1", pipe[1:])
	d.want("FDSTOREREMOVE=1\nFDNAME=tap-vxkr1")
	state, fds := d.next()
	if state != "FDSTORE=1\nFDNAME=tap-vxkr1" || len(fds) != 1 {
		t.Fatalf("stored: %q with %v", state, fds)
	}
	// The daemon closes its own: the pipe lives on in the store, and here.
	unix.Close(pipe[1])
	if _, err := unix.Write(fds[0], []byte("x")); err != nil {
		t.Error(err)
	}
	files := s.Held("vxkr1")
	if len(files) != 1 {
		t.Fatalf("held: %v", files)
	}
	if _, err := files[0].Write([]byte("y")); err != nil {
		t.Error(err)
	}
	files[0].Close()
	if again := s.Held("vxkr1"); again != nil {
		t.Errorf("held twice: %v", again)
	}
	// A process that is started with it: as in LISTEN_FDS, which no test can have.
	s.store.fds["tap-vxkr9"] = []int{mustDup(t, fds[0])}
	s.Hold("vxkr2", []int{fds[0]})
	d.want("FDSTOREREMOVE=1\nFDNAME=tap-vxkr2", "FDSTORE=1\nFDNAME=tap-vxkr2")
	s.Release()
	d.want("FDSTOREREMOVE=1\nFDNAME=tap-vxkr9")
	if s.Held("vxkr9") != nil || len(s.store.fds["tap-vxkr2"]) != 1 {
		t.Error("Release kept what nobody took, or gave up what is in use")
	}
	// The other end is gone: so is the use of the copies.
	unix.Close(pipe[0])
	s.store.put("tap-other", nil)
	if len(s.store.fds) != 0 {
		t.Errorf("dead descriptors are kept: %v", s.store.fds)
	}
}

func mustDup(t *testing.T, fd int) int {
	t.Helper()
	n, err := duplicate(fd)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDeafSupervisor(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	log, out := testLog()
	s := Supervised(log)
	s.Ready()
	s.Stopping()
	s.Hold("vxkr1", []int{0})
	if n := strings.Count(out.String(), "could not be told"); n != 1 {
		t.Errorf("said %d times:\n%s", n, out)
	}
}

func TestJournal(t *testing.T) {
	type message struct {
		Text     string
		Priority journal.Priority
		Fields   map[string]string
	}
	var got []message
	full := false
	var text bytes.Buffer
	level := new(slog.LevelVar)
	log := slog.New(&journalHandler{name: "kohaku-host", level: level, fallback: slog.NewTextHandler(&text, nil),
		send: func(m string, p journal.Priority, f map[string]string) error {
			if full {
				return syscall.ENOSPC
			}
			got = append(got, message{m, p, f})
			return nil
		}})
	log.Debug("unseen")
	log.With("runner", "gpu-1").WithGroup("a").Warn("it is\nodd", "b-c", "two words", slog.Group("g", "n", 7),
		"error", fmt.Errorf("look: %w", syscall.ENODEV), "empty", "")
	level.Set(slog.LevelDebug)
	log.Debug("seen")
	log.Error("bad")
	want := []message{
		{"it is\nodd runner=gpu-1 a.b-c=\"two words\" a.g.n=7 a.error=\"look: no such device\" a.empty=\"\"", journal.PriWarning, map[string]string{
			"SYSLOG_IDENTIFIER": "kohaku-host", "KOHAKU_RUNNER": "gpu-1", "KOHAKU_A_B_C": "two words", "KOHAKU_A_G_N": "7",
			"KOHAKU_A_ERROR": "look: no such device", "ERRNO": "19", "KOHAKU_A_EMPTY": "",
		}},
		{"seen", journal.PriDebug, map[string]string{"SYSLOG_IDENTIFIER": "kohaku-host"}},
		{"bad", journal.PriErr, map[string]string{"SYSLOG_IDENTIFIER": "kohaku-host"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	full = true
	log.With("k", 1).Error("worse")
	if !strings.Contains(text.String(), "msg=worse k=1") {
		t.Errorf("what the journal does not take is lost: %q", text.String())
	}
	if n := fieldName(strings.Repeat("x", 99)); len(n) != maxField {
		t.Errorf("a field's name of %d bytes", len(n))
	}
}

func TestReload(t *testing.T) {
	parse := func(text string) *conf.Host {
		h, err := conf.ParseHost("host.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	log, out := testLog()
	next, err := parse(""), error(nil)
	var levels []slog.Level
	var beats []time.Duration
	r := &Reloader[*conf.Host]{
		Log:  log,
		Load: func() (*conf.Host, error) { return next, err },
		Apply: map[string]func(*conf.Host){
			"host.log_level":     func(h *conf.Host) { levels = append(levels, h.Host.LogLevel) },
			"heartbeat.interval": func(h *conf.Host) { beats = append(beats, h.Heartbeat.Interval) },
		},
	}
	r.Start(parse(""))
	say := func(want string) {
		t.Helper()
		out.Reset()
		r.Reload()
		if !strings.Contains(out.String(), want) {
			t.Errorf("logged %q, want %q", out, want)
		}
	}
	say("nothing has changed")
	next = parse("[host]\nlog_level = \"debug\"\n[overlay]\nsubnet = \"10.128.0.0/12/6/14\"\nmtu = 1400\n[heartbeat]\ninterval = \"2s\"")
	say(`host.log_level = \"debug\", heartbeat.interval = \"2s\"`)
	if !strings.Contains(out.String(), "overlay.mtu, overlay.subnet changed: needs a restart") {
		t.Errorf("logged %q", out)
	}
	say("overlay.mtu, overlay.subnet changed: needs a restart") // as long as it is so
	err = errors.New("line 3: no")
	say("all stays as it was")
	err, next = nil, parse("")
	say(`host.log_level = \"info\", heartbeat.interval = \"5s\"`)
	if strings.Contains(out.String(), "restart") {
		t.Errorf("what is as it was at the start needs no restart: %s", out)
	}
	if !slices.Equal(levels, []slog.Level{slog.LevelDebug, slog.LevelInfo}) || !slices.Equal(beats, []time.Duration{2 * time.Second, 5 * time.Second}) {
		t.Errorf("applied: %v, %v", levels, beats)
	}
}

func TestNewLogWithoutJournal(t *testing.T) {
	// A variable that is not about this process's standard error.
	t.Setenv("JOURNAL_STREAM", "1:2")
	var b bytes.Buffer
	NewLog(&b, "kohaku-host", slog.LevelInfo).Info("hello", "k", "v")
	if !strings.Contains(b.String(), "time=") || !strings.Contains(b.String(), "msg=hello k=v") {
		t.Errorf("logged %q", b.String())
	}
}
