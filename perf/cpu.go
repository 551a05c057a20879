// SPDX-License-Identifier: Apache-2.0

package perf

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// MachineCPU is processor time spent by the whole machine, in seconds: every
// process and the kernel, interrupts included. It is the figure that stays
// comparable between data paths, because it does not matter to whom the kernel
// charges the work.
type MachineCPU struct {
	User    float64 `json:"user_seconds"`    // with niced processes
	System  float64 `json:"system_seconds"`  // kernel on behalf of processes
	IRQ     float64 `json:"irq_seconds"`     // hard and soft interrupts
	Steal   float64 `json:"steal_seconds"`   // wanted, but the hypervisor ran something else; not in Busy
	Elapsed float64 `json:"elapsed_seconds"` // of the clock
	CPUs    int     `json:"cpus"`
}

// Busy is the processor time spent, in seconds over all processors.
func (m MachineCPU) Busy() float64 { return m.User + m.System + m.IRQ }

// PerGbit gives processor seconds for each Gbit of payload; 0 without payload.
func (m MachineCPU) PerGbit(bytes int64) float64 {
	if bytes <= 0 {
		return 0
	}
	return m.Busy() / (float64(bytes) * 8 / 1e9)
}

// PerMillion gives processor seconds for a million of something; 0 for nothing.
func (m MachineCPU) PerMillion(n int64) float64 {
	if n <= 0 {
		return 0
	}
	return m.Busy() / (float64(n) / 1e6)
}

// cpuMark is a point in time to measure from.
type cpuMark struct {
	at      time.Time
	machine [8]uint64 // of /proc/stat: user nice system idle iowait irq softirq steal
	proc    unix.Rusage
}

// userHZ is the unit of /proc/stat on every Linux architecture: 1/100 s.
const userHZ = 100

// markCPU takes the machine's and the process's processor times.
func markCPU() (cpuMark, error) {
	m := cpuMark{at: time.Now()}
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return m, fmt.Errorf("reading the machine's processor time: %w", err)
	}
	if m.machine, err = parseStat(b); err != nil {
		return m, err
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &m.proc); err != nil {
		return m, os.NewSyscallError("getrusage", err)
	}
	return m, nil
}

// parseStat reads the first line of /proc/stat.
func parseStat(b []byte) (v [8]uint64, err error) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) < 9 || string(f[0]) != "cpu" {
		return v, errors.New("/proc/stat does not start with the line \"cpu\" and eight numbers")
	}
	for i := range v {
		if v[i], err = strconv.ParseUint(string(f[i+1]), 10, 64); err != nil {
			return v, fmt.Errorf("/proc/stat: %w", err)
		}
	}
	return v, nil
}

// since gives what was spent from the mark until end.
func (m cpuMark) since(end cpuMark) MachineCPU {
	d := func(i int) float64 {
		if end.machine[i] < m.machine[i] { // iowait is known to go back
			return 0
		}
		return float64(end.machine[i]-m.machine[i]) / userHZ
	}
	return MachineCPU{
		User: d(0) + d(1), System: d(2), IRQ: d(5) + d(6), Steal: d(7),
		Elapsed: end.at.Sub(m.at).Seconds(),
		CPUs:    runtime.NumCPU(),
	}
}

// ProcessCPU is the use of one process, in percent of one processor, as iperf3
// gives it.
type ProcessCPU struct{ Total, User, System float64 }

// process gives the use of this process from the mark until end.
func (m cpuMark) process(end cpuMark) ProcessCPU {
	wall := end.at.Sub(m.at).Seconds()
	if wall <= 0 {
		return ProcessCPU{}
	}
	user := seconds(end.proc.Utime) - seconds(m.proc.Utime)
	sys := seconds(end.proc.Stime) - seconds(m.proc.Stime)
	return ProcessCPU{Total: 100 * (user + sys) / wall, User: 100 * user / wall, System: 100 * sys / wall}
}

func seconds(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }
