// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain runs the tests inside a lab. The tests of entering itself start this
// binary anew from there, with a role in roleEnv; it then enters a lab in the
// lab and plays the role instead of running tests.
func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	if role == roleNoUserNamespaces {
		os.Exit(playNoUserNamespaces())
	}
	if err := Enter(Options{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(refusedCode)
	}
	if role != "" {
		os.Exit(play(role))
	}
	goleak.VerifyTestMain(m)
}
