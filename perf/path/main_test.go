// SPDX-License-Identifier: Apache-2.0

package path_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"kohaku/internal/lab"
)

func TestMain(m *testing.M) {
	if err := lab.Enter(lab.Options{TUN: true}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}
