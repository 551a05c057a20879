// SPDX-License-Identifier: Apache-2.0

package end

import (
	"bytes"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// quotaCounts are those of the processor quota that binds this process most.
type quotaCounts struct {
	periods, hit uint64  // of them, those in which the quota was used up
	processors   float64 // 0: no quota
}

// throttled is the share of periods in which the quota was used up.
func (q quotaCounts) throttled(now quotaCounts) float64 {
	periods := since(q.periods, now.periods)
	if periods == 0 {
		return 0
	}
	return min(float64(since(q.hit, now.hit))/float64(periods), 1)
}

// readQuota looks at the control groups of this process, version 2 or 1. Where
// there is none to be seen, there is no quota.
func readQuota() quotaCounts {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return quotaCounts{}
	}
	return quotaIn("/sys/fs/cgroup", b, os.ReadFile)
}

// quotaIn finds the smallest quota among the group and those that it is in.
func quotaIn(mount string, groups []byte, read func(string) ([]byte, error)) (tightest quotaCounts) {
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3) // cgroups(7): hierarchy:controllers:path
		if len(f) != 3 {
			continue
		}
		base := mount
		switch {
		case f[1] == "": // version 2
		case slices.Contains(strings.Split(f[1], ","), "cpu"):
			base = path.Join(mount, f[1])
		default:
			continue
		}
		for dir := path.Clean("/" + f[2]); ; dir = path.Dir(dir) {
			q := quotaOf(path.Join(base, dir), read)
			if q.processors > 0 && (tightest.processors == 0 || q.processors < tightest.processors) {
				tightest = q
			}
			if dir == "/" {
				break
			}
		}
	}
	return tightest
}

// quotaOf reads one group's; zero where it has none.
func quotaOf(dir string, read func(string) ([]byte, error)) (q quotaCounts) {
	if b, err := read(path.Join(dir, "cpu.max")); err == nil { // "QUOTA PERIOD" or "max PERIOD"
		if f := strings.Fields(string(b)); len(f) == 2 {
			q.processors = ratio(f[0], f[1])
		}
	} else if b, err := read(path.Join(dir, "cpu.cfs_quota_us")); err == nil { // -1: none
		period, _ := read(path.Join(dir, "cpu.cfs_period_us"))
		q.processors = ratio(string(bytes.TrimSpace(b)), string(bytes.TrimSpace(period)))
	}
	b, err := read(path.Join(dir, "cpu.stat"))
	if err != nil || q.processors == 0 {
		return quotaCounts{}
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(value, 10, 64)
		switch {
		case err != nil:
		case name == "nr_periods":
			q.periods = n
		case name == "nr_throttled":
			q.hit = n
		}
	}
	return q
}

func ratio(quota, period string) float64 {
	q, err1 := strconv.ParseFloat(quota, 64)
	p, err2 := strconv.ParseFloat(period, 64)
	if err1 != nil || err2 != nil || q <= 0 || p <= 0 {
		return 0
	}
	return q / p
}
