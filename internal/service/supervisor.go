// SPDX-License-Identifier: Apache-2.0

// Package service is what a daemon has to do with whoever runs it: systemd, or a
// person at a terminal. It tells systemd how the daemon is (sd_notify(3)), answers
// its watchdog as long as the daemon's loops are alive, keeps descriptors in its
// store over a restart, logs to the journal with fields, and applies changed
// settings when SIGHUP asks for it.
//
// Without systemd everything here does nothing, and nothing is lost.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Supervisor is who started this process. Its methods are safe for concurrent use,
// and those of a nil Supervisor do nothing.
type Supervisor struct {
	// Constant.
	log      *slog.Logger
	socket   string        // of sd_notify; empty: nobody listens
	watchdog time.Duration // systemd's patience; 0: it has no watchdog
	changed  chan struct{} // has a token when status is to be sent

	store store

	mu     sync.Mutex
	status string
	deaf   bool // a message could not be sent: said once
}

// patience is how long a message to systemd may take. It reads its socket all the
// time; who does not is not systemd.
const patience = 2 * time.Second

// Supervised reads the environment for what a supervisor left there, and clears it:
// programs that this one starts are not services. Call it once, early: descriptors
// that were kept over a restart are taken over here.
func Supervised(log *slog.Logger) *Supervisor {
	s := &Supervisor{log: log, socket: os.Getenv("NOTIFY_SOCKET"), changed: make(chan struct{}, 1)}
	var err error
	if s.watchdog, err = daemon.SdWatchdogEnabled(true); err != nil {
		log.Warn("the supervisor's watchdog is not understood and not answered", "error", err)
	}
	_ = os.Unsetenv("NOTIFY_SOCKET")
	s.store.take()
	return s
}

// Ready says that the daemon does its work.
func (s *Supervisor) Ready() { s.tell(daemon.SdNotifyReady) }

// Stopping says that the daemon was told to end and does.
func (s *Supervisor) Stopping() { s.tell(daemon.SdNotifyStopping) }

// Reloading says that the daemon reads its settings anew; Ready ends that.
func (s *Supervisor) Reloading() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail
	s.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// Status gives the line that `systemctl status` shows. It does not wait.
func (s *Supervisor) Status(text string) {
	if s == nil || s.socket == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status == text {
		return
	}
	s.status = text
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Run sends status lines and answers the watchdog as long as no loop of live is
// late, until ctx ends. A loop that hangs is said once, and systemd kills the
// daemon and starts it anew.
func (s *Supervisor) Run(ctx context.Context, live *Live) {
	if s == nil || s.socket == "" {
		return
	}
	var ping <-chan time.Time
	if s.watchdog > 0 {
		// Half of systemd's patience, as sd_watchdog_enabled(3) recommends.
		tick := time.NewTicker(s.watchdog / 2)
		defer tick.Stop()
		ping = tick.C
	}
	hung := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
			s.mu.Lock()
			text := s.status
			s.mu.Unlock()
			s.tell("STATUS=" + text)
		case <-ping:
			late := live.Late()
			if len(late) == 0 {
				hung = false
				s.tell(daemon.SdNotifyWatchdog)
			} else if !hung {
				hung = true
				s.log.Error("the daemon hangs: systemd's watchdog gets no answer and will start it anew", "why", late)
			}
		}
	}
}

func (s *Supervisor) tell(state string) {
	if s == nil || s.socket == "" {
		return
	}
	s.said(s.send(state))
}

// said logs the first of the errors of sending. It reports whether there is none.
func (s *Supervisor) said(err error) bool {
	if err == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.deaf {
		s.deaf = true
		s.log.Warn("the supervisor could not be told", "error", err)
	}
	return false
}

// send passes a message, with descriptors, to systemd.
func (s *Supervisor) send(state string, fds ...int) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	// WriteMsgUnix does not write to a connected socket.
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = rc.Write(func(fd uintptr) (done bool) {
		sent = unix.Sendmsg(int(fd), []byte(state), rights, nil, unix.MSG_NOSIGNAL)
		return sent != unix.EAGAIN
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("nobody reads the socket %s", s.socket)
	}
	return errors.Join(err, sent)
}
