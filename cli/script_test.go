// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kohaku/internal/lab"
)

// TestMain makes this binary also the program `kohaku` of the scripts, and runs
// the tests in a lab: nothing that the commands make is left on the machine.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "kohaku" {
		if err := lab.Enter(lab.Options{TUN: true}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	testscript.Main(m, map[string]func(){
		"kohaku": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs testdata/*.txt. Beside testscript's own commands there are
//
//	exits CODE COMMAND...   the command ends with exactly this status
//	fakehost DIR            an HTTP server with DIR's files as answers, at $HOST:
//	                        GET and POST of /a/b/c answer with a.b.c.json, or with
//	                        a.b.c.409.json and that status
//	cable A B               makes the machines A, 192.0.2.1, and B, 192.0.2.2
//	reach A ADDRESS         waits until ADDRESS answers to machine A
//	await unix:PATH         waits until a Host answers at its admin socket
//	await-status 0 A        waits until kohaku status on machine A ends with 0
//	token FLAG...           sets $TOKEN to what kohaku token new FLAG... makes
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// A home without settings, wherever the tests run.
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"fakehost": fakeHost,
			"cable":    cable,
			"reach":    reach,

			"await": await, "await-status": awaitStatus, "token": newToken,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func fakeHost(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fakehost DIR")
	}
	base := ts.MkAbs(args[0]) + "/"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := base + strings.ReplaceAll(strings.Trim(r.URL.Path, "/"), "/", ".")
		for _, code := range []int{200, 404, 409, 500} {
			path := fmt.Sprintf("%s.%d.json", name, code)
			if code == 200 {
				path = name + ".json"
			}
			if b, err := os.ReadFile(path); err == nil {
				w.WriteHeader(code)
				w.Write(b)
				return
			}
		}
		http.Error(w, "no such page", http.StatusNotFound)
	}))
	ts.Defer(s.Close)
	ts.Setenv("HOST", strings.TrimPrefix(s.URL, "http://"))
}

func cable(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cable A B")
	}
	n, err := lab.NewNet()
	ts.Check(err)
	ts.Defer(func() { n.Close() })
	var pair [2]*lab.Node
	for i, name := range args {
		pair[i], err = n.Node(name)
		ts.Check(err)
		nodes.Store(name, pair[i])
	}
	_, _, err = lab.Connect(pair[0], "eth0", pair[1], "eth0", 0)
	ts.Check(err)
	ts.Check(pair[0].AddAddr("eth0", netip.MustParsePrefix("192.0.2.1/24")))
	ts.Check(pair[1].AddAddr("eth0", netip.MustParsePrefix("192.0.2.2/24")))
}

// nodes are the machines of running scripts, by name.
var nodes sync.Map

// reach dials a port where nobody listens: that the connection is refused is an
// answer of the machine.
func reach(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: reach A ADDRESS")
	}
	node, ok := nodes.Load(args[0])
	if !ok {
		ts.Fatalf("no machine %s", args[0])
	}
	var err error
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		err = node.(*lab.Node).Do(func() error {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(args[1], "9"), time.Second)
			if err == nil {
				c.Close()
			}
			return err
		})
		if errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
	}
	ts.Fatalf("%s does not reach %s: %v", args[0], args[1], err)
}
