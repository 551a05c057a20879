// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What this binary does when roleEnv is set: it is then the program of a lab
// that a test has started and looks at from outside.
const (
	roleEnv = "KOHAKU_LAB_TEST_ROLE"

	roleWhere            = "where"   // prints where it is
	roleExit             = "exit"    // exits with code 7
	roleDie              = "die"     // kills itself with SIGKILL
	roleStay             = "stay"    // makes a network, says so, stays
	roleSignals          = "signals" // prints the signals it gets until SIGTERM
	roleOrphans          = "orphans" // leaves orphans behind, and waits for children of its own
	roleTUN              = "tun"     // prints what CheckTUN says where /dev/net/tun is unusable
	roleMaskedProc       = "masked"  // enters a lab where /proc is partly hidden
	roleNoUserNamespaces = "no-userns"

	refusedCode = 3 // Enter returned an error
)

func play(role string) int {
	var err error
	switch role {
	case roleWhere:
		err = playWhere()
	case roleExit:
		return 7
	case roleDie:
		err = unix.Kill(os.Getpid(), unix.SIGKILL)
		time.Sleep(time.Hour)
	case roleStay:
		err = playStay()
	case roleSignals:
		playSignals()
	case roleOrphans:
		err = playOrphans()
	case roleTUN:
		err = playTUN()
	case roleMaskedProc:
		err = playMaskedProc()
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		return 1
	}
	return 0
}

func playWhere() error {
	links, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return err
	}
	var devices []string
	for _, line := range strings.Split(string(links), "\n")[2:] {
		if name, _, ok := strings.Cut(line, ":"); ok {
			devices = append(devices, strings.TrimSpace(name))
		}
	}
	run, err := os.ReadDir("/run")
	if err != nil {
		return err
	}
	var names []string
	for _, e := range run {
		names = append(names, e.Name())
	}
	fmt.Printf("uid=%d ppid=%d devices=%v run=%v temp=%s stage=%q inside=%v outer=%v\n", os.Getuid(), os.Getppid(),
		devices, names, os.TempDir(), os.Getenv(stageEnv), Inside(), OuterPID() > 1)
	return nil
}

// playStay makes two nodes with a cable and starts processes that would like to
// outlive the lab: one in a session of its own, one that ignores signals.
func playStay() error {
	n, err := NewNet()
	if err != nil {
		return err
	}
	a, err := n.Node("stay-a")
	if err != nil {
		return err
	}
	b, err := n.Node("stay-b")
	if err != nil {
		return err
	}
	if _, _, err := Connect(a, "eth0", b, "eth0", 0); err != nil {
		return err
	}
	if err := a.AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")); err != nil {
		return err
	}
	for _, node := range []*Node{a, b} {
		cmd := node.Command(context.Background(), "sh", "-c", "trap '' HUP INT TERM; sleep 1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
	}
	fmt.Printf("ready outer=%d\n", OuterPID())
	fmt.Println(strings.Join(a.EnterCommand("uname", "-n"), " "))
	time.Sleep(time.Hour) // not select{}: without cgo the runtime would call it a deadlock
	return nil
}

func playSignals() {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, passed...)
	fmt.Println("ready")
	for s := range ch {
		fmt.Println(s)
		if s == unix.SIGTERM {
			return
		}
	}
}

// playOrphans makes orphans that end at once while it waits for children of its
// own, whose exit status must be theirs.
func playOrphans() error {
	for i := range 40 {
		if err := exec.Command("sh", "-c", "(true & true &) ; exit 0").Run(); err != nil {
			return fmt.Errorf("child that leaves orphans: %w", err)
		}
		code := i % 5
		err := exec.Command("sh", "-c", fmt.Sprintf("exit %d", code)).Run()
		got := 0
		if ee, ok := err.(*exec.ExitError); ok {
			got = ee.ExitCode()
		} else if err != nil {
			return fmt.Errorf("waiting for a child: %w", err)
		}
		if got != code {
			return fmt.Errorf("a child's exit code is %d, want %d", got, code)
		}
	}
	// All that is left are init and this program, once init has been to work.
	deadline := time.Now().Add(20 * time.Second)
	for {
		left, err := processes()
		if err != nil {
			return err
		}
		if len(left) == 2 {
			fmt.Println("clean")
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes left: %v", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// playTUN makes /dev/net/tun unusable in two ways and prints what CheckTUN says.
func playTUN() error {
	if err := unix.Mount(tunPath, tunPath, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", tunPath, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	fmt.Println(CheckTUN())
	if err := unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, ""); err != nil {
		return err
	}
	fmt.Println(CheckTUN())
	return nil
}

// playMaskedProc hides a part of /proc, as container runtimes do, and enters a
// lab as an ordinary user.
func playMaskedProc() error {
	if err := unix.Mount("/dev/null", "/proc/version", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	cmd := roleCommand(roleWhere, true)
	out, err := cmd.CombinedOutput()
	fmt.Print(string(out))
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != refusedCode {
		return fmt.Errorf("entering: %v, want it refused", err)
	}
	return nil
}

// playNoUserNamespaces runs before Enter, as root of a user namespace that the
// test has made. It starts a second one, of an ordinary user, forbids further
// ones, and lets the ordinary user try to enter a lab.
func playNoUserNamespaces() int {
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("sh", "-c", `read go; exec "$0"`, exe)
	cmd.Env = append(os.Environ(), roleEnv+"="+roleWhere)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 0, Size: 1}},
	}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err == nil {
		err = os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0)
	}
	if err == nil {
		_, err = in.Write([]byte("go\n"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = cmd.Wait() // the exit code says it all
	return cmd.ProcessState.ExitCode()
}
