// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"kohaku/internal/lab"
)

// TestMain makes this binary also the agent of the machines, and runs the tests
// in a lab.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		if err := Agent(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// A fuzzing worker is started from inside and must not enter a second lab.
	if !slices.Contains(os.Args, "-test.fuzzworker") {
		if err := lab.Enter(lab.Options{TUN: true}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

var self = []string{"/proc/self/exe", "agent"}
