// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"
)

func TestDistance(t *testing.T) {
	cpus, err := processors()
	if err != nil {
		t.Fatal(err)
	}
	if d, err := distance(cpus[0], cpus[0]); d != 0 || err != nil {
		t.Errorf("from a processor to itself: %v ns, %v", d, err)
	}
	if d, err := distance(cpus[0], 1<<12); err == nil {
		t.Errorf("a processor that does not exist is %v ns away", d)
	}
	if len(cpus) < 2 {
		t.Skip("one processor has no other")
	}
	for range 20 {
		d, err := distance(cpus[0], cpus[len(cpus)-1])
		if err != nil || d < 1 || d > 1e6 {
			t.Errorf("from one processor to the other: %v ns, %v", d, err)
		}
		t.Log(d)
	}
}
