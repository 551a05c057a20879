// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kohaku/internal/api"
)

// patience bounds the waiting for something that happens by itself.
const patience = 20 * time.Second

func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: await unix:PATH")
	}
	waitFor(ts, args[0], func() error { return ts.Exec("kohaku", "token", "list", "--host", args[0]) })
}

func awaitStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 || args[0] != "0" {
		ts.Fatalf("usage: await-status 0 MACHINE")
	}
	waitFor(ts, args[1], func() error { return ts.Exec("nsenter", "--net=/run/netns/"+args[1], "kohaku", "status") })
}

func waitFor(ts *testscript.TestScript, what string, holds func() error) {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	ts.Fatalf("waiting for %s: %v", what, err)
}

func newToken(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: token FLAG...")
	}
	ts.Check(ts.Exec("kohaku", append([]string{"token", "new", "--json"}, args...)...))
	var t api.NewToken
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &t))
	ts.Setenv("TOKEN", t.Secret)
}
