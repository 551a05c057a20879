// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	runDir    = "/run"
	netnsDir  = "/run/netns"
	tempDir   = "/run/tmp"
	outerFile = "/run/kohaku-lab"
)

// setupError carries a failure from init to the front: errors have no wire
// form, errno values do.
type setupError struct {
	Step  string
	Errno int
	Text  string
}

func (e setupError) err() error {
	if e.Errno != 0 {
		return syscall.Errno(e.Errno)
	}
	return errors.New(e.Text)
}

// runInit is process 1 of the lab. It makes the lab's private mounts, starts
// the program and from then on only reaps and passes signals. The program is a
// separate process because an init must wait for any child, which would take
// the exit status of children that os/exec waits for.
func runInit() {
	unix.CloseOnExec(lifelineFD)
	unix.CloseOnExec(reportFD)
	report := os.NewFile(reportFD, "report")
	fail := func(step string, err error) {
		e := setupError{Step: step, Text: err.Error()}
		var errno syscall.Errno
		if errors.As(err, &errno) {
			e.Errno = int(errno)
		}
		// The front reads the report; without a front nobody is left to tell.
		_ = json.NewEncoder(report).Encode(e)
		os.Exit(125)
	}

	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passed...)
	go func() {
		// The parent-death signal is set after the fork, so a front that dies
		// in between would not be noticed. The pipe notices always.
		_, _ = io.Copy(io.Discard, os.NewFile(lifelineFD, "lifeline"))
		os.Exit(128 + int(unix.SIGKILL))
	}()

	if err := setup(); err != nil {
		var s *stepError
		if errors.As(err, &s) {
			fail(s.step, s.err)
		}
		fail("set up", err)
	}
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env:   programEnv(os.Environ()),
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		fail("start the program", err)
	}
	report.Close()

	go func() {
		for s := range signals {
			// The program may have just ended; the loop below sees that.
			_ = unix.Kill(pid, s.(syscall.Signal))
		}
	}()
	for {
		var w syscall.WaitStatus
		got, err := syscall.Wait4(-1, &w, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			os.Exit(125)
		case got == pid:
			os.Exit(exitCode(w))
		}
	}
}

// programEnv is the program's environment: the stage, and a temporary directory
// that ends with the lab.
func programEnv(env []string) []string {
	out := make([]string, 0, len(env)+2)
	for _, v := range env {
		if strings.HasPrefix(v, stageEnv+"=") || strings.HasPrefix(v, "TMPDIR=") {
			continue
		}
		out = append(out, v)
	}
	return append(out, stageEnv+"="+stageInner, "TMPDIR="+tempDir)
}

// stepError says at which step of setup an error occurred.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// setup makes the mounts and brings the loopback device up.
func setup() error {
	// /proc is still the one of the outer pid namespace, and says who this
	// process is there.
	outer, err := os.Readlink("/proc/self")
	if err != nil {
		return &stepError{"read /proc/self", err}
	}
	if _, err := strconv.Atoi(outer); err != nil {
		return &stepError{"read /proc/self", err}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return &stepError{"make mounts private", err}
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("proc", "/proc", "proc", flags|unix.MS_NOEXEC, ""); err != nil {
		return &stepError{"mount /proc", err}
	}
	// A private /run keeps the xtables lock, the names of network namespaces
	// and the sockets of the machine's own services apart.
	if err := unix.Mount("tmpfs", runDir, "tmpfs", flags, "mode=0755"); err != nil {
		return &stepError{"mount tmpfs on " + runDir, err}
	}
	for dir, mode := range map[string]os.FileMode{netnsDir: 0o755, tempDir: 0o777 | os.ModeSticky, runDir + "/lock": 0o755} {
		if err := os.Mkdir(dir, mode.Perm()); err != nil {
			return &stepError{"make " + dir, err}
		}
		if err := os.Chmod(dir, mode); err != nil {
			return &stepError{"make " + dir, err}
		}
	}
	if err := os.WriteFile(outerFile, []byte(outer+" "+os.Getenv(stageEnv)+"\n"), 0o644); err != nil {
		return &stepError{"write " + outerFile, err}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return &stepError{"set lo up", err}
	}
	return nil
}
