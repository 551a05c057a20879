// SPDX-License-Identifier: Apache-2.0

package end

import (
	"io/fs"
	"math"
	"slices"
	"testing"

	"kohaku/engine"
	"kohaku/internal/link/ethtool"
)

func TestCores(t *testing.T) {
	a, err := parseCores([]byte("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 0 10 100 50 0 0 0 0 0\ncpu3 0 0 0 0 0 0 0 0 0 0\nintr 5 0\n"))
	if err != nil || len(a) != 2 {
		t.Fatalf("%v, %v", a, err)
	}
	b, err := parseCores([]byte("cpu0 20 0 10 120 40 0 50 20 0 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	// Of 100 ticks: user 10, softirq 50, idle 20, stolen 20; iowait went back.
	c := a[0].until(b[0])
	if math.Abs(c.Busy-0.6) > 1e-9 || math.Abs(c.SoftIRQ-0.5) > 1e-9 || math.Abs(c.Steal-0.2) > 1e-9 {
		t.Errorf("%+v", c)
	}
	if c := a[0].until(a[0]); c.Busy != 0 {
		t.Errorf("no time: %+v", c)
	}
	for _, bad := range []string{"", "cpu 1 2 3 4 5 6 7 8\n", "cpu0 1 2 x 4 5 6 7 8 9\n", "cpux 1 2 3 4 5 6 7 8 9\n"} {
		if v, err := parseCores([]byte(bad)); err == nil {
			t.Errorf("%q gave %v", bad, v)
		}
	}
}

func TestSchedstat(t *testing.T) {
	if v, ok := parseSchedstat([]byte("12 34 5\n")); !ok || v != (threadTimes{12, 34}) {
		t.Errorf("%+v, %v", v, ok)
	}
	for _, bad := range []string{"", "1", "a b c"} {
		if _, ok := parseSchedstat([]byte(bad)); ok {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestSNMP(t *testing.T) {
	v4 := "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams RcvbufErrors SndbufErrors\nUdp: 100 7 3\nUdpLite: RcvbufErrors\nUdpLite: 9\n"
	if u := parseSNMP([]byte(v4)); u != (udpErrors{7, 3}) {
		t.Errorf("%+v", u)
	}
	v6 := "Udp6InDatagrams \t100\nUdp6RcvbufErrors                \t5\nUdp6SndbufErrors \t2\nUdpLite6RcvbufErrors 8\n"
	if u := parseSNMP([]byte(v6)); u != (udpErrors{5, 2}) {
		t.Errorf("%+v", u)
	}
	if u, err := readUDPErrors(); err != nil {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestQuota(t *testing.T) {
	files := map[string]string{
		// Version 2: the group has none, its parent has half a processor, the one above two.
		"/m/a/cpu.max": "200000 100000\n", "/m/a/cpu.stat": "nr_periods 1\nnr_throttled 0\n",
		"/m/a/b/cpu.max": "50000 100000\n", "/m/a/b/cpu.stat": "usage_usec 7\nnr_periods 100\nnr_throttled 40\nthrottled_usec 9\n",
		"/m/a/b/c/cpu.max": "max 100000\n",
		// Version 1.
		"/m/cpu,cpuacct/x/cpu.cfs_quota_us": "25000\n", "/m/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
		"/m/cpu,cpuacct/x/cpu.stat":         "nr_periods 10\nnr_throttled 10\n",
		"/m/cpu,cpuacct/y/cpu.cfs_quota_us": "-1\n", "/m/cpu,cpuacct/y/cpu.cfs_period_us": "100000\n",
	}
	read := func(name string) ([]byte, error) {
		if s, ok := files[name]; ok {
			return []byte(s), nil
		}
		return nil, fs.ErrNotExist
	}
	for groups, want := range map[string]quotaCounts{
		"0::/a/b/c\n":                   {100, 40, 0.5},
		"0::/a\n":                       {1, 0, 2},
		"0::/\n":                        {},
		"3:cpu,cpuacct:/x\n0::/\n":      {10, 10, 0.25},
		"3:cpu,cpuacct:/y\n2:memory:/x": {},
		"nonsense\n0::/../../a/b\n":     {100, 40, 0.5},
	} {
		if q := quotaIn("/m", []byte(groups), read); q != want {
			t.Errorf("%q: %+v, want %+v", groups, q, want)
		}
	}
	if s := (quotaCounts{10, 5, 1}).throttled(quotaCounts{20, 9, 1}); s != 0.4 {
		t.Errorf("throttled %v", s)
	}
	if s := (quotaCounts{}).throttled(quotaCounts{}); s != 0 {
		t.Errorf("throttled without periods %v", s)
	}
}

func TestSwitchedOff(t *testing.T) {
	off := switchedOff([]ethtool.Feature{
		{Name: "tx-checksum-ipv4", Available: true, Active: true},
		{Name: "tx-checksum-ipv6", Available: true},        // the other one is enough
		{Name: "tx-scatter-gather", Available: true},       // off
		{Name: "tx-tcp-segmentation", Active: true},        // fixed
		{Name: "tx-tcp-ecn-segmentation", Available: true}, // not TCP as such
		{Name: "rx-gro", Available: true},                  // off
		{Name: "tx-udp-segmentation"},                      // not possible here
	})
	if !slices.Equal(off, []string{"sg", "gro"}) {
		t.Errorf("off: %v", off)
	}
}

func TestEngineBetween(t *testing.T) {
	a := engine.Stats{Stages: engine.Stages{Sent: 100, BlockedTime: 1e9}, Drops: map[string]uint64{"ecn": 1, "loop": 2}}
	b := engine.Stats{Stages: engine.Stages{Sent: 40, BlockedTime: 2e9}, Drops: map[string]uint64{"ecn": 5, "loop": 2}}
	e := engineBetween(a, b, 2)
	// An engine that was made anew has begun at zero.
	if e.Sent != 40 || e.Blocked != 0.5 || len(e.Drops) != 1 || e.Drops["ecn"] != 4 {
		t.Errorf("%+v", e)
	}
}
