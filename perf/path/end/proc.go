// SPDX-License-Identifier: Apache-2.0

package end

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"kohaku/internal/api"
)

// coreTimes are a processor's, of /proc/stat: user nice system idle iowait irq
// softirq steal, in clock ticks.
type coreTimes [8]uint64

func readCores() (map[int]coreTimes, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, fmt.Errorf("read the processors' times: %w", err)
	}
	return parseCores(b)
}

// parseCores reads the lines "cpu0", "cpu1", ... (proc_stat(5)).
func parseCores(b []byte) (map[int]coreTimes, error) {
	cores := make(map[int]coreTimes)
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 9 || !strings.HasPrefix(f[0], "cpu") || f[0] == "cpu" {
			continue
		}
		cpu, err := strconv.Atoi(f[0][3:])
		var t coreTimes
		for i := range t {
			var e error
			t[i], e = strconv.ParseUint(f[i+1], 10, 64)
			err = errors.Join(err, e)
		}
		if err != nil {
			return nil, fmt.Errorf("read the processors' times: %w", err)
		}
		cores[cpu] = t
	}
	if len(cores) == 0 {
		return nil, errors.New("read the processors' times: /proc/stat names no processor")
	}
	return cores, nil
}

// until gives the shares between two moments. They are of all that was counted,
// not of the clock, which ticks are too coarse for.
func (c coreTimes) until(now coreTimes) api.PerfCore {
	var d [8]float64
	total := 0.0
	for i := range d {
		if now[i] > c[i] { // iowait is known to go back
			d[i] = float64(now[i] - c[i])
		}
		total += d[i]
	}
	if total == 0 {
		return api.PerfCore{}
	}
	const idle, iowait, softirq, steal = 3, 4, 6, 7
	return api.PerfCore{
		Busy:    (total - d[idle] - d[iowait] - d[steal]) / total,
		SoftIRQ: d[softirq] / total, Steal: d[steal] / total,
	}
}

// threadTimes are nanoseconds that a thread ran, and waited for a processor.
type threadTimes struct{ run, wait uint64 }

// readThreads reads those of this process (/proc/PID/task/TID/schedstat, kernel's
// Documentation/scheduler/sched-stats.rst). It needs CONFIG_SCHED_INFO, which
// every distribution has.
func readThreads() (map[int]threadTimes, error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, fmt.Errorf("read the daemon's threads: %w", err)
	}
	all := make(map[int]threadTimes)
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/self/task/" + e.Name() + "/schedstat")
		if err != nil {
			continue // it has ended, or the kernel does not tell
		}
		if t, ok := parseSchedstat(b); ok {
			all[tid] = t
		}
	}
	if len(all) == 0 {
		return nil, errors.New("read the daemon's threads: this kernel does not tell their waiting times (CONFIG_SCHED_INFO)")
	}
	return all, nil
}

func parseSchedstat(b []byte) (t threadTimes, ok bool) {
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return t, false
	}
	run, err1 := strconv.ParseUint(f[0], 10, 64)
	wait, err2 := strconv.ParseUint(f[1], 10, 64)
	return threadTimes{run, wait}, err1 == nil && err2 == nil
}

// udpErrors count datagrams that sockets of this machine lost.
type udpErrors struct{ receive, send uint64 }

func readUDPErrors() (u udpErrors, err error) {
	for _, file := range []string{"/proc/thread-self/net/snmp", "/proc/thread-self/net/snmp6"} {
		b, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return u, fmt.Errorf("read the UDP counters: %w", err)
		}
		more := parseSNMP(b)
		u.receive += more.receive
		u.send += more.send
	}
	return u, nil
}

// parseSNMP reads both forms: a line of names and one of values, for IPv4, and a
// name and a value on each line, for IPv6.
func parseSNMP(b []byte) (u udpErrors) {
	add := func(name, value string) {
		n, err := strconv.ParseUint(value, 10, 64)
		switch {
		case err != nil:
		case name == "RcvbufErrors", name == "Udp6RcvbufErrors":
			u.receive += n
		case name == "SndbufErrors", name == "Udp6SndbufErrors":
			u.send += n
		}
	}
	var names []string
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		f := strings.Fields(s.Text())
		switch {
		case len(f) == 2:
			add(f[0], f[1])
		case len(f) < 2 || f[0] != "Udp:":
		case names == nil:
			names = f
		default:
			for i := range min(len(names), len(f)) {
				add(names[i], f[i])
			}
			names = nil
		}
	}
	return u
}

// bootID tells kernels apart.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
