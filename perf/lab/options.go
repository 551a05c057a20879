// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// Options says what Run measures. Empty lists are everything that there is.
type Options struct {
	DataPaths  []string
	Topologies []string
	Profiles   []string
	Workloads  []string
	// Rounds is how often each path is measured; 0: as often as it takes until
	// every ratio is known to Precision, or the Budget is used up.
	Rounds    int
	Time      time.Duration // in which one path is measured in one round, in turns and without warm-up; 0: 200 ms
	Budget    time.Duration // for the whole run; 0: 14.5 min. Each path is measured once at least
	Precision float64       // half a ratio's confidence interval, as a share; 0: 0.02

	// Program starts this program as an agent; see Agent. Required.
	Program []string
	// Congestion is the TCP congestion control to use on all machines; empty
	// is cubic, or reno where cubic may not be used in a namespace: both send as
	// acknowledgements come. What paces by timers, as bbr does, measures timers.
	Congestion string
	// Unplaced lets programs run on any processor; see place.
	Unplaced bool
	// ProfileDir gets a processor profile of each engine; empty: none.
	ProfileDir string
	// OnProgress is called before each measurement and after the last.
	OnProgress func(Progress)
}

// Progress says how far Run is.
type Progress struct {
	Done, Total int // measurements; Total is 0 where Precision decides
	Elapsed     time.Duration
	Left        time.Duration // estimated, or at most where Precision decides; 0 while nobody knows
	Doing       string        // "offload, hub, round 2: tcp1 over kernel"
}

// Quick turns a run into one that takes less than a minute.
func (o *Options) Quick() {
	o.Budget = 45 * time.Second
	if len(o.Topologies) == 0 {
		o.Topologies = []string{Hop}
	}
}

func (o *Options) check() (err error) {
	if o.Time == 0 {
		o.Time = 200 * time.Millisecond
	}
	if o.Budget == 0 {
		o.Budget = 14*time.Minute + 30*time.Second
	}
	if o.Precision == 0 {
		o.Precision = 0.02
	}
	if o.Rounds < 0 || o.Rounds > 1000 {
		return fmt.Errorf("%d rounds: give 1 to 1000", o.Rounds)
	}
	if o.Budget < time.Second {
		return fmt.Errorf("a budget of %v: give a second at least", o.Budget)
	}
	if o.Precision < 0.001 || o.Precision > 1 {
		return fmt.Errorf("a precision of %v: give 0.001 to 1", o.Precision)
	}
	if o.Time < 100*time.Millisecond || o.Time > time.Hour {
		return fmt.Errorf("%v for each path in a round: give 100ms to 1h", o.Time)
	}
	if o.Congestion == "" {
		o.Congestion = "cubic"
		if checkCongestion(o.Congestion) != nil {
			o.Congestion = "reno" // which everybody may use
		}
	}
	if err := checkCongestion(o.Congestion); err != nil {
		return err
	}
	names, missing := DataPaths()
	for _, d := range o.DataPaths {
		if why := missing[d]; why != "" {
			return fmt.Errorf("data path %s: %s", d, why)
		}
	}
	if o.DataPaths, err = choose("data path", names, o.DataPaths); err != nil {
		return err
	}
	var have []string
	for _, d := range o.DataPaths {
		if missing[d] == "" {
			have = append(have, d)
		}
	}
	o.DataPaths = have
	if o.Topologies, err = choose("topology", []string{Hop, Hub}, o.Topologies); err != nil {
		return err
	}
	if o.Profiles, err = choose("profile", []string{Offload, Wire}, o.Profiles); err != nil {
		return err
	}
	o.Workloads, err = choose("workload", Workloads(), o.Workloads)
	return err
}

// checkCongestion asks the kernel whether a congestion control may be used in
// namespaces: only those that the machine allows to everybody may.
func checkCongestion(name string) error {
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err != nil {
		return fmt.Errorf("congestion control %q: %w", name, err)
	}
	if have := strings.Fields(string(b)); !slices.Contains(have, name) {
		return fmt.Errorf("congestion control %q may not be used in a namespace here; allowed are %s (net.ipv4.tcp_allowed_congestion_control)", name, strings.Join(have, ", "))
	}
	return nil
}

// Check fills in defaults and refuses what is not known. Run does it too.
func (o *Options) Check() error { return o.check() }
