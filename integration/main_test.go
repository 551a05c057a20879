// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kohaku/internal/lab"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	if err := lab.Enter(lab.Options{TUN: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// roleEnv makes this binary play a part in a test instead of running tests:
// a data plane in a process of its own, whose memory can be measured.
const roleEnv = "KOHAKU_INTEGRATION_ROLE"

func play(role string) int {
	var err error
	switch role {
	case roleManyTunnels:
		err = playManyTunnels()
	case roleManyRunners:
		err = playManyRunners()
	case roleRefuse:
		err = playRefuse()
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		return 1
	}
	return 0
}

// must returns v, or ends the test with err.
func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}

// check ends the test with err, if there is one.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within is a context that no step of a test should come near to.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// newUnderlay builds machines on a switch, gone when the test ends.
func newUnderlay(t testing.TB, c lab.UnderlayConfig) *lab.Underlay {
	t.Helper()
	n := must(lab.NewNet())(t)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return must(n.Underlay(within(t, time.Minute), c))(t)
}

// open runs a function that opens something in a node. Whoever calls closes it.
func open[T any](t testing.TB, n *lab.Node, f func() (T, error)) T {
	t.Helper()
	var v T
	check(t, n.Do(func() (err error) { v, err = f(); return err }))
	return v
}

// closeAfter closes something when the test ends.
func closeAfter[T io.Closer](t testing.TB, c T) T {
	t.Cleanup(func() {
		// Twice closed is fine: a test may close earlier, to look at the effect.
		if err := c.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return c
}

// eventually waits until a condition holds, looking again and again. The bound
// is only there for a test that fails.
func eventually(t *testing.T, bound time.Duration, what string, holds func() error) {
	t.Helper()
	deadline := time.Now().Add(bound)
	for {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kohakuBinary builds the program once per run, where it disappears with the lab.
var kohakuBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kohaku-bin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "kohaku")
	out, err := exec.Command("go", "build", "-o", path, "kohaku/cli/kohaku").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})
