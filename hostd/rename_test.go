// SPDX-License-Identifier: Apache-2.0

package hostd

import (
	"net/netip"
	"testing"
	"time"

	"kohaku/internal/api"
)

// A machine that was renamed keeps its id; one that only seems to be the same does
// not get it.
func TestRename(t *testing.T) {
	for name, c := range map[string]struct {
		change func(q *api.RegisterRequest)
		silent bool // the old name is
		want   int
	}{
		"renamed":                            {func(*api.RegisterRequest) {}, true, 1},
		"renamed, new address":               {func(q *api.RegisterRequest) { q.Address, q.PreviousID = otherAddr, 1 }, true, 1},
		"a copy beside the living one":       {func(*api.RegisterRequest) {}, false, 3},
		"a copy with the id, beside it":      {func(q *api.RegisterRequest) { q.PreviousID = 1 }, false, 3},
		"a copy elsewhere":                   {func(q *api.RegisterRequest) { q.Address = otherAddr }, true, 3},
		"another machine at the address":     {func(q *api.RegisterRequest) { q.MachineID = otherID }, true, 3},
		"another id on the devices":          {func(q *api.RegisterRequest) { q.PreviousID = 2 }, true, 3},
		"a name that another allocation has": {func(q *api.RegisterRequest) { q.Hostname, q.MachineID = "other", otherID }, true, 2},
	} {
		w := newWorld(t)
		w.mustStart()
		w.join(request("node1", runnerID, runnerAddr))
		w.join(request("other", otherID, netip.MustParseAddr("192.168.88.70")))
		if c.silent {
			w.clock.advance(time.Hour)
		}
		q := request("gpu1", runnerID, runnerAddr)
		c.change(&q)
		if a := w.join(q); a.RunnerID != c.want {
			t.Errorf("%s: id %d, want %d", name, a.RunnerID, c.want)
		}
		if n := len(w.host.status().Allocations); n != max(2, c.want) {
			t.Errorf("%s: %d allocations", name, n)
		}
	}
}
