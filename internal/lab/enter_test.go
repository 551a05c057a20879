// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nobody is the ordinary user of these tests, where they run as root.
const nobody = 65534

// roleCommand starts this binary in a role, in a lab of its own. ordinary means
// as an ordinary user; whoever runs the tests as one is that user already.
func roleCommand(role string, ordinary bool) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	switch {
	case ordinary && !inUserNamespace():
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	case ordinary:
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: 0, Size: 1}}
	}
	return cmd
}

// inUserNamespace reports whether uid 0 here is somebody else outside.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	f := strings.Fields(string(b))
	return len(f) != 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295"
}

// asEachUser runs a test as root and as an ordinary user.
func asEachUser(t *testing.T, test func(t *testing.T, ordinary bool)) {
	for name, ordinary := range map[string]bool{"root": false, "ordinary": true} {
		t.Run(name, func(t *testing.T) { test(t, ordinary) })
	}
}

func TestEnterIsolates(t *testing.T) {
	asEachUser(t, func(t *testing.T, ordinary bool) {
		out, err := roleCommand(roleWhere, ordinary).Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want := `uid=0 ppid=1 devices=[lo] run=[kohaku-lab lock netns tmp] temp=/run/tmp stage="" inside=true outer=true` + "\n"
		if string(out) != want {
			t.Errorf("got  %swant %s", out, want)
		}
	})
}

func TestEnterReturnsTheExitCode(t *testing.T) {
	for role, want := range map[string]int{roleWhere: 0, roleExit: 7, roleDie: 128 + 9, "unknown": 1} {
		cmd := roleCommand(role, false)
		_ = cmd.Run() // the code is what counts
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: exit code %d, want %d", role, got, want)
		}
	}
}

func TestEnterPassesSignalsOnce(t *testing.T) {
	cmd := roleCommand(roleSignals, false)
	lines := startLines(t, cmd)
	if got := <-lines; got != "ready" {
		t.Fatalf("got %q", got)
	}
	// One at a time: the kernel merges pending signals of one number.
	for _, s := range []syscall.Signal{unix.SIGINT, unix.SIGUSR1, unix.SIGHUP, unix.SIGINT, unix.SIGTERM} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if got := <-lines; got != s.String() {
			t.Errorf("sent %q, the program got %q", s, got)
		}
	}
	if rest, ok := <-lines; ok {
		t.Errorf("the program also got %q", rest)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestInitReapsOnlyOrphans(t *testing.T) {
	out, err := roleCommand(roleOrphans, false).CombinedOutput()
	if err != nil || string(out) != "clean\n" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestNothingStaysAfterKill(t *testing.T) {
	for _, victim := range []string{"front", "init", "program"} {
		t.Run(victim, func(t *testing.T) {
			asEachUser(t, func(t *testing.T, ordinary bool) { testKill(t, victim, ordinary) })
		})
	}
}

func testKill(t *testing.T, victim string, ordinary bool) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	cmd := roleCommand(roleStay, ordinary)
	token := fmt.Sprintf("KOHAKU_LAB_TEST_TOKEN=%d-%d", os.Getpid(), time.Now().UnixNano())
	cmd.Env = append(cmd.Env, token)
	lines := startLines(t, cmd)
	ready := <-lines
	<-lines // how to enter: TestEnterCommand
	init, err := strconv.Atoi(strings.TrimPrefix(ready, "ready outer="))
	if err != nil {
		t.Fatalf("the program says %q", ready)
	}
	if got := marked(t, token); len(got) < 5 {
		t.Fatalf("%d processes in the lab, want front, init, program and two shells", len(got))
	}
	pid := map[string]int{"front": cmd.Process.Pid, "init": init, "program": childOf(t, init)}[victim]
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for line := range lines {
		t.Errorf("more output: %q", line)
	}
	_ = cmd.Wait() // killed, or 137
	if got, want := exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus)), 128+9; got != want {
		t.Errorf("exit code %d, want %d", got, want)
	}
	deadline := time.Now().Add(20 * time.Second)
	for left := marked(t, token); len(left) > 0; left = marked(t, token) {
		if time.Now().After(deadline) {
			t.Fatalf("processes left: %v", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mounts, after) {
		t.Errorf("mounts before:\n%s\nafter:\n%s", mounts, after)
	}
	for _, name := range []string{"stay-a", "stay-b"} {
		if _, err := os.Stat(filepath.Join(netnsDir, name)); err == nil {
			t.Errorf("%s stays in %s", name, netnsDir)
		}
	}
}

// Whoever started a lab gets into its nodes from outside.
func TestEnterCommand(t *testing.T) {
	asEachUser(t, func(t *testing.T, ordinary bool) {
		cmd := roleCommand(roleStay, ordinary)
		lines := startLines(t, cmd)
		<-lines
		args := strings.Fields(<-lines)
		if len(args) == 0 {
			t.Fatal("the program printed no command")
		}
		nsenter := exec.Command(args[0], append(args[1:len(args)-2:len(args)-2], "sh", "-c", "cat /proc/net/dev")...)
		nsenter.SysProcAttr = &syscall.SysProcAttr{Credential: cmd.SysProcAttr.Credential}
		out, err := nsenter.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "eth0") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func TestEnterRefusedNamesTheLimit(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+roleNoUserNamespaces)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
	out, _ := cmd.CombinedOutput() // the code is what counts
	if got := cmd.ProcessState.ExitCode(); got != refusedCode {
		t.Errorf("exit code %d, want %d", got, refusedCode)
	}
	if !strings.Contains(string(out), "user.max_user_namespaces") {
		t.Errorf("the message does not name the sysctl: %s", out)
	}
}

func TestEnterRefusedNamesHiddenProc(t *testing.T) {
	out, err := roleCommand(roleMaskedProc, false).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "mount /proc: operation not permitted; parts of /proc are hidden") {
		t.Errorf("the message does not name the cause: %s", out)
	}
}

func TestCheckTUN(t *testing.T) {
	out, err := roleCommand(roleTUN, false).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(string(out), "\n")
	if !strings.Contains(lines[0], "open /dev/net/tun: permission denied") || !strings.Contains(lines[0], "chmod 0666 /dev/net/tun") {
		t.Errorf("no permission: %s", lines[0])
	}
	if !strings.Contains(lines[1], "no such file") || !strings.Contains(lines[1], "modprobe tun") {
		t.Errorf("no device: %s", lines[1])
	}
}

// startLines starts a command and returns the lines it prints; the channel
// closes when nobody has its standard output open any more.
func startLines(t *testing.T, cmd *exec.Cmd) <-chan string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	context.AfterFunc(ctx, func() { r.Close() })
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // has ended, unless the test failed
	lines := make(chan string, 64)
	go func() {
		defer close(lines)
		s := bufio.NewScanner(r)
		for s.Scan() {
			lines <- s.Text()
		}
	}()
	return lines
}

// processes lists the process ids of this pid namespace.
func processes() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// marked lists the processes whose environment contains the variable.
func marked(t *testing.T, variable string) []int {
	t.Helper()
	pids, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, pid := range pids {
		f, err := os.Open(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue // just ended
		}
		env, err := io.ReadAll(f)
		f.Close()
		if err == nil && bytes.Contains(env, []byte(variable)) {
			out = append(out, pid)
		}
	}
	return out
}

// childOf returns the only child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	pids, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if f[1] == strconv.Itoa(pid) {
			return p
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}
