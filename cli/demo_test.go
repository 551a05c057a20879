// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"kohaku/internal/demo"
)

// program is this test binary as `kohaku`, see TestMain.
func program(args ...string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", args...)
	c.Args[0] = "kohaku"
	c.Stderr = os.Stderr
	return c
}

// TestDemo runs the demonstration with the real daemons, shortened, twice in a
// row.
func TestDemo(t *testing.T) {
	for range 2 {
		out, err := program("demo", "--json", "--mib", "32").Output()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var r demo.Result
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if !r.OK || len(r.Steps) != 12 || len(r.Pings) != 3 || len(r.Outer) != 2 || r.SeenFrom != "192.0.2.2" ||
			r.Transfer == nil || r.Transfer.Bytes != 32<<20 || r.Transfer.Sent != r.Transfer.Received {
			t.Errorf("%s", out)
		}
		for i, vni := range []uint32{101, 102} {
			if r.Outer[i].VNI != vni {
				t.Errorf("leg %d has VNI %d, want %d", i+1, r.Outer[i].VNI, vni)
			}
		}
	}
	if left := descendants(t); len(left) > 0 {
		t.Errorf("processes left: %v", left)
	}
}

// startKept starts `kohaku demo --keep` and returns when all is up, with what it
// printed.
func startKept(t *testing.T) (*exec.Cmd, string) {
	t.Helper()
	c := program("demo", "--keep", "--mib", "1")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	var text strings.Builder
	for s := bufio.NewScanner(out); s.Scan(); {
		text.WriteString(s.Text() + "\n")
		if strings.HasPrefix(s.Text(), "Settings and logs") {
			go io.Copy(io.Discard, out)
			return c, text.String()
		}
	}
	t.Fatalf("the demo ended early:\n%s", text.String())
	return nil, ""
}

// The printed commands lead into the machines, and Ctrl-C ends all in order.
func TestDemoKept(t *testing.T) {
	c, text := startKept(t)
	for machine, want := range map[string]string{"container-2": "10.2.0.2", "host": "10.0.0.1", "runner-1": "10.1.0.1"} {
		m := regexp.MustCompile(`(?m)^  ` + machine + ` +(nsenter .* sh)$`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no way into %s in:\n%s", machine, text)
		}
		// Root of these tests' lab makes the demo without a user namespace of
		// its own, so there is none to enter, also when the lab has one.
		enter := strings.Replace(m[1], " -U --preserve-credentials", "", 1)
		got, err := exec.Command("sh", "-c", enter+" -c 'ip -4 -br address'").CombinedOutput()
		if err != nil || !strings.Contains(string(got), " "+want+"/") {
			t.Errorf("%s: %v\n%s", m[1], err, got)
		}
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	waitForNone(t)
}

// kill -9 leaves nothing, whichever of the processes it hits.
func TestDemoKilled(t *testing.T) {
	for _, victim := range []string{"first", "second", "third"} {
		c, _ := startKept(t)
		all := descendants(t)
		// The order of their ids is the order in which they were started: the
		// process that a person started, the lab's init, the program in it.
		i := slices.Index([]string{"first", "second", "third"}, victim)
		if len(all) < 6 {
			t.Fatalf("%d processes, expected the demo's three and three daemons: %v", len(all), all)
		}
		if err := syscall.Kill(all[i], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err == nil {
			t.Errorf("%s process killed: exit status 0", victim)
		}
		waitForNone(t)
	}
}

// descendants lists the processes below this one, in the order of their ids.
// Orphans count: they stay in a process group or session of ours no longer, but
// the lab of these tests has a /proc of its own with no one else in it.
func descendants(t *testing.T) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || len(cmdline) == 0 {
			continue // ended, or about to
		}
		out = append(out, pid)
	}
	slices.Sort(out)
	return out
}

// waitForNone waits until the kernel has taken all processes away.
func waitForNone(t *testing.T) {
	t.Helper()
	var left []int
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if left = descendants(t); len(left) == 0 {
			return
		}
	}
	t.Errorf("processes left: %v", left)
}
