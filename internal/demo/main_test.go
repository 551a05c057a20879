// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"kohaku/internal/lab"
)

// TestMain plays a daemon that dies when it is started as one, and else runs
// the tests in a lab.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "host" {
		fmt.Fprintln(os.Stderr, "first line of the log")
		fmt.Fprintln(os.Stderr, "the reason stands here")
		os.Exit(7)
	}
	if err := lab.Enter(lab.Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
