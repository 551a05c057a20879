// SPDX-License-Identifier: Apache-2.0

package l3_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"kohaku/internal/lab"
)

// The tests use real TUN devices, so they run in a lab of their own. A fuzzing
// worker is started from inside and is there already.
func TestMain(m *testing.M) {
	if !lab.Inside() {
		if err := lab.Enter(lab.Options{TUN: true}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}
