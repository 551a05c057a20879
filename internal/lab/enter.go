// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stageEnv tells a re-executed program which of the lab's processes it is. It
// is removed from the environment of the program proper, so that a program
// started inside the lab may enter a lab of its own.
const (
	stageEnv      = "KOHAKU_LAB_STAGE"
	stageInit     = "init"
	stageInitUser = "init-user" // init, in a user namespace made for it
	stageInner    = "program"
)

// Descriptors of the init process: the front's end of lifelineFD closes when
// the front dies; on reportFD init says why it could not set the lab up.
const (
	lifelineFD = 3
	reportFD   = 4
)

// passed lists the signals that the front hands to the program. Keyboard
// signals are among them: the lab is a process group of its own, so that the
// terminal reaches only the front and nobody gets a signal twice.
var passed = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM,
	unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH,
}

// Options says what the program needs inside the lab. The zero value suits a
// program that makes no TAP devices.
type Options struct {
	// TUN: the program opens /dev/net/tun. Whether it can is then found out
	// before anything is made, with an error that says what to do.
	TUN bool
}

// Enter moves the program into a lab. In the lab's program it returns nil. In
// the caller's process it does not return on success: it waits for the lab's
// program and exits with that program's code, 128 plus the signal if a signal
// ended it. If the lab cannot be made, Enter returns an [*EnterError] there.
//
// Call it before anything that should happen only once, and before starting
// goroutines that own threads: the program is executed three times up to this
// call. Inside, standard input is /dev/null if it was a terminal (the lab is a
// background process group, which may not read one), os.TempDir is in memory
// and disappears with the lab, and the working directory is unchanged.
func Enter(o Options) error {
	switch os.Getenv(stageEnv) {
	case stageInit, stageInitUser:
		runInit() // does not return
	case stageInner:
		if err := os.Unsetenv(stageEnv); err != nil {
			return fmt.Errorf("lab: clearing %s: %w", stageEnv, err)
		}
		if !Inside() {
			return fmt.Errorf("lab: %s=%s is set outside a lab; unset it", stageEnv, stageInner)
		}
		return nil
	}
	if o.TUN {
		if err := CheckTUN(); err != nil {
			return err
		}
	}
	code, err := front()
	if err != nil {
		return err
	}
	os.Exit(code)
	panic("unreachable")
}

// Inside reports whether this process runs in a lab.
func Inside() bool {
	_, err := os.Stat(outerFile)
	return err == nil
}

// OuterPID returns the process id, as seen from outside, of the lab's init: the
// process through which nsenter gets in. It returns 0 outside a lab.
func OuterPID() int {
	pid, _ := outer()
	return pid
}

// outer reads what init has written down: its process id outside, and whether
// the lab has a user namespace of its own.
func outer() (pid int, user bool) {
	b, err := os.ReadFile(outerFile)
	if err != nil {
		return 0, false
	}
	f := strings.Fields(string(b))
	if len(f) != 2 {
		return 0, false
	}
	if pid, err = strconv.Atoi(f[0]); err != nil {
		return 0, false
	}
	return pid, f[1] == stageInitUser
}

// front starts the lab and waits for it. The goroutine keeps its thread until
// the lab is gone: the kernel sends the parent-death signal when the thread
// that forked ends, not when the process does.
func front() (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	lifeRead, lifeWrite, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("lab: pipe: %w", err)
	}
	defer lifeWrite.Close()
	defer lifeRead.Close()
	repRead, repWrite, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("lab: pipe: %w", err)
	}
	defer repRead.Close()
	defer repWrite.Close()

	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       os.Args,
		Env:        append(os.Environ(), stageEnv+"="+stageInit),
		Stdout:     os.Stdout,
		Stderr:     os.Stderr,
		ExtraFiles: []*os.File{lifeRead, repWrite},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
			Pdeathsig:  unix.SIGKILL,
			Setpgid:    true,
		},
	}
	if !isTerminal(os.Stdin) {
		cmd.Stdin = os.Stdin
	}
	if os.Geteuid() != 0 {
		cmd.Env = append(os.Environ(), stageEnv+"="+stageInitUser)
		// Root inside is the caller outside, nothing more. Root itself stays
		// in the machine's user namespace: elsewhere the kernel loads no eBPF.
		a := cmd.SysProcAttr
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		a.GidMappingsEnableSetgroups = false
	}

	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passed...)
	defer signal.Stop(signals)

	if err := cmd.Start(); err != nil {
		return 0, refused("create namespaces", err)
	}
	lifeRead.Close()
	repWrite.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				// An error means that the lab has just ended: Wait below says so.
				_ = cmd.Process.Signal(s)
			case <-done:
				return
			}
		}
	}()

	report, readErr := io.ReadAll(repRead)
	waitErr := cmd.Wait()
	if len(report) > 0 {
		var e setupError
		if err := json.Unmarshal(report, &e); err != nil {
			return 0, fmt.Errorf("lab: set up: %s", report)
		}
		return 0, refused(e.Step, e.err())
	}
	if readErr != nil {
		return 0, fmt.Errorf("lab: waiting for the set-up: %w", readErr)
	}
	var exit *exec.ExitError
	if waitErr != nil && !errors.As(waitErr, &exit) {
		return 0, fmt.Errorf("lab: waiting for the program: %w", waitErr)
	}
	return exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus)), nil
}

// exitCode is the shell's convention: the code, or 128 plus the signal.
func exitCode(w syscall.WaitStatus) int {
	if w.Signaled() {
		return 128 + int(w.Signal())
	}
	return w.ExitStatus()
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
