// SPDX-License-Identifier: Apache-2.0

// Package end is one end of a measurement that the control plane wants: it answers
// one perf client or is one, and watches its own machine meanwhile. The daemons get
// it as their dataplane.Meter.
//
// A server listens on one address, answers one client address, ends after one test,
// and in any case when its time is over.
package end

import "kohaku/internal/dataplane"

// Meter measures on this machine. The zero value is ready for use.
type Meter struct{}

var _ dataplane.Meter = Meter{}
