// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// status is what /proc says about a process. Sizes are in bytes.
type status struct {
	rss, peak   int64 // VmRSS, VmHWM
	threads     int
	descriptors int
	open        []string // what the descriptors are, by number
}

func procStatus(t *testing.T, pid int) status {
	t.Helper()
	var s status
	b := must(os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)))(t)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			continue
		}
		switch f[0] {
		case "VmRSS:":
			s.rss = n << 10
		case "VmHWM:":
			s.peak = n << 10
		case "Threads:":
			s.threads = int(n)
		}
	}
	for _, e := range must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)))(t) {
		s.descriptors++
		// Closed meanwhile: then it has no name.
		name, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		s.open = append(s.open, e.Name()+" "+name)
	}
	return s
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every
// architecture that Go runs on.
const clockTick = 10 * time.Millisecond

// cpuTime is what a process has used so far, in user and kernel mode.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b := must(os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)))(t)
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user := must(strconv.ParseInt(f[11], 10, 64))(t)
	system := must(strconv.ParseInt(f[12], 10, 64))(t)
	return time.Duration(user+system) * clockTick
}
