// SPDX-License-Identifier: Apache-2.0

package path_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/lab"
	"kohaku/perf/path"
)

// The machines of the demonstration, with the real daemons:
//
//	+----------------+   +------------------------+   +----------------+
//	| kohaku-overlay |   | kohaku-host  10.0.0.1  |   | kohaku-overlay |
//	|   10.1.0.1     |   | vxkr1        vxkr2     |   |   10.2.0.1     |
//	| runner-1       |   | host                   |   | runner-2       |
//	+-+--------------+   +---+--------------------+   +----+-----------+
//	  | eth0 192.0.2.2       | eth0 192.0.2.1              | eth0 192.0.2.3
//	  +------------------- switch -------------------------+
const (
	theHost = iota
	runner1
	runner2
)

const apiPort = 8000

// cluster is the machines and their daemons.
type cluster struct {
	*lab.Underlay
	t       *testing.T
	binary  string
	daemons []*lab.Cmd
}

// newCluster starts everything. overlay goes into the Host's [overlay] section.
func newCluster(t *testing.T, mtu int, overlay string) *cluster {
	t.Helper()
	binary, err := kohaku()
	check(t, err)
	n, err := lab.NewNet()
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	u, err := n.Underlay(t.Context(), lab.UnderlayConfig{Names: []string{"host", "runner-1", "runner-2"}, MTU: mtu})
	check(t, err)
	k := &cluster{Underlay: u, t: t, binary: binary}
	dir := t.TempDir()
	k.start(theHost, "host", filepath.Join(dir, "host.toml"),
		fmt.Sprintf("[host]\njoin = \"open\"\nbind = \"0.0.0.0:%d\"\nstate_dir = %q\n[heartbeat]\ninterval = \"500ms\"\n[overlay]\n%s\n", apiPort, dir+"/h", overlay))
	for _, m := range []int{runner1, runner2} {
		name := u.Hosts[m].Name()
		k.start(m, "runner", filepath.Join(dir, name+".toml"),
			fmt.Sprintf("[runner]\nhost = \"%s\"\nstate_dir = %q\n[docker]\nenabled = false\n", k.api(), dir+"/"+name))
	}
	k.waitActive()
	return k
}

func (k *cluster) api() string { return fmt.Sprintf("%s:%d", k.Hosts[theHost].V4, apiPort) }

func (k *cluster) start(machine int, role, file, settings string) {
	t := k.t // not that of a subtest, which k.t may be later
	t.Helper()
	check(t, os.WriteFile(file, []byte(settings), 0o600))
	log, err := os.Create(file + ".log")
	check(t, err)
	defer log.Close()
	// Not the test's context: a daemon ends in order.
	cmd := k.Hosts[machine].Command(context.Background(), k.binary, role, "--config", file)
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	k.daemons = append(k.daemons, cmd)
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("kohaku %s on %s: %v", role, k.Hosts[machine].Name(), err)
		}
		if t.Failed() {
			b, _ := os.ReadFile(file + ".log")
			t.Logf("kohaku %s on %s said:\n%s", role, k.Hosts[machine].Name(), b)
		}
	})
}

// waitActive waits until the Host counts both runners.
func (k *cluster) waitActive() {
	k.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var s api.Status
		out, err := k.run("status", "--json", "--host", k.api())
		if err == nil {
			err = json.Unmarshal(out, &s)
		}
		if err == nil && s.Stats.ActiveAllocations == 2 {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("the runners are not active: %v\n%s", err, out)
		}
	}
}

// run runs the program on the Host.
func (k *cluster) run(args ...string) ([]byte, error) {
	cmd := k.Hosts[theHost].Command(k.t.Context(), k.binary, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kohaku %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out, err
}

// measure runs kohaku perf path with short tests.
func (k *cluster) measure(args ...string) *path.Report {
	k.t.Helper()
	out, err := k.run(append([]string{"perf", "path", "--json", "-t", "0.6", "--host", k.api()}, args...)...)
	check(k.t, err)
	r := &path.Report{}
	check(k.t, json.Unmarshal(out, r))
	k.t.Logf("%v: %s: %s\n  %s\n  also: %s", args, r.Verdict.Cause, r.Verdict.Sentence,
		strings.Join(r.Verdict.Evidence, "\n  "), strings.Join(r.Verdict.Also, "\n  also: "))
	return r
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// kohaku builds the program once, where it disappears with the lab.
var kohaku = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kohaku-bin-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "kohaku")
	out, err := exec.Command("go", "build", "-o", file, "kohaku/cli/kohaku").CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return file, nil
})
