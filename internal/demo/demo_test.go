// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"os"
	"strings"
	"testing"

	"kohaku/internal/lab"
)

// A daemon that dies ends the set-up; the person reads why.
func TestRunShowsTheLogOfADaemonThatDies(t *testing.T) {
	var out strings.Builder
	r, err := Run(t.Context(), Options{Program: "/proc/self/exe", Progress: &out})
	if err != nil {
		t.Fatal(err)
	}
	if r.OK {
		t.Error("the result is OK")
	}
	last := r.Steps[len(r.Steps)-1]
	if last.Name != "kohaku host" || last.OK || !strings.Contains(last.Error, "exit status 7") {
		t.Errorf("last step: %+v", last)
	}
	for _, want := range []string{"✗", "last lines of the log of host:", "the reason stands here", "1 of 2 steps did not hold: kohaku host"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q was not shown:\n%s", want, out.String())
		}
	}
	assertNothingLeft(t)
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out strings.Builder
	if _, err := Run(ctx, Options{Program: "/proc/self/exe", Progress: &out}); err != context.Canceled {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	if !strings.Contains(out.String(), "Interrupted at: ") || strings.Contains(out.String(), "✗") {
		t.Errorf("shown:\n%s", out.String())
	}
	assertNothingLeft(t)
}

// assertNothingLeft wants no namespace and no file of a demonstration.
func assertNothingLeft(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/run/netns", os.TempDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if dir == "/run/netns" || strings.HasPrefix(e.Name(), "kohaku-demo-") {
				t.Errorf("left behind: %s/%s", dir, e.Name())
			}
		}
	}
}

// The drawing shows the addresses that the lab gives.
func TestPictureShowsTheAddresses(t *testing.T) {
	n, err := lab.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	u, err := n.Underlay(t.Context(), lab.UnderlayConfig{Names: machineNames})
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range u.Hosts {
		if !strings.Contains(picture, " "+h.V4.String()+" ") && !strings.Contains(picture, " "+h.V4.String()+"\n") {
			t.Errorf("%s of %s is not in the picture", h.V4, h.Name())
		}
	}
}
