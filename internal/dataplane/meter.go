// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"

	"kohaku/engine"
	"kohaku/internal/api"
)

// Meter measures on this machine when the control plane asks. Nothing of it is
// open or runs outside of a call. Its methods are safe for concurrent use.
type Meter interface {
	// Do carries out a task, until it is done or ctx ends, and reports before it
	// returns: a server first api.PerfReady, then, as everybody, once api.PerfDone.
	// It fills in TaskID and what it measured, not who it is. stats is asked
	// several times.
	Do(ctx context.Context, t api.PerfTask, stats func() engine.Stats, report func(api.PerfReport))
	// Watch looks at this machine from now until stop is called, which must be
	// once. Of the task only Peers and Tunnels count.
	Watch(t api.PerfTask, stats func() engine.Stats) (stop func() api.PerfSeen)
}
