// SPDX-License-Identifier: Apache-2.0

package path_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kohaku/internal/api"
	"kohaku/internal/lab"
	"kohaku/perf/path"
)

// factsPort is where a Runner answers its containers (runnerd.FactsPort).
const factsPort = 8001

// Each cause is provoked on a running cluster and must be named.
func TestProvoked(t *testing.T) {
	k := newCluster(t, 1500, "")
	usual := map[int][]uint16{} // the daemons' own ports
	for m := range k.Hosts {
		if m != theHost {
			// A Runner is active before its bridge, and what listens there, is up.
			k.eventually("containers may ask "+k.Hosts[m].Name(), func() bool { return slices.Contains(k.listening(m), factsPort) })
		}
		usual[m] = k.listening(m)
	}
	t.Run("nothing", func(t *testing.T) {
		k.t = t
		r := k.measure("runner-1")
		switch r.Verdict.Cause {
		case path.Underlay, path.Offload, path.MTU, path.HostCPU, path.RunnerCPU, path.Loss:
			t.Errorf("%s is blamed, and nobody provoked it", r.Verdict.Cause)
		}
		if len(r.Tests) != 6 || r.Share <= 0 || r.LatencyOverhead == 0 {
			t.Errorf("%d tests, share %v, latency %v", len(r.Tests), r.Share, r.LatencyOverhead)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		k.t = t
		k.assertClosed(usual)
		k.interrupt()
		k.assertClosed(usual)
		if _, err := k.run("perf", "path", "runner-2", "-t", "0.2", "-P", "1", "--host", k.api()); err != nil {
			t.Errorf("after it: %v", err)
		}
	})
	t.Run("offload switched off", func(t *testing.T) {
		k.t = t
		port := k.Hosts[runner1].Port
		off := map[lab.Feature]bool{lab.FeatureTSO: false, lab.FeatureGSO: false, lab.FeatureUDPGSO: false}
		check(t, port.SetFeatures(off))
		r := k.measure("runner-1")
		for f := range off {
			off[f] = true
		}
		check(t, port.SetFeatures(off))
		want(t, r, path.Offload, "tso, gso, tx-udp-segmentation are off on eth0 of runner-1")
	})
	t.Run("slow underlay", func(t *testing.T) {
		k.t = t
		limit(t, k.Hosts[theHost].AtPort, 100e6)
		r := k.measure("runner-1")
		unlimit(t, k.Hosts[theHost].AtPort)
		want(t, r, path.Underlay, " Mbit/s from runner-1 to the Host")
	})
	t.Run("CPU-bound Host", func(t *testing.T) {
		k.t = t
		release, alone := k.starveHost()
		defer release()
		r := k.measure("runner-1", "runner-2")
		if alone {
			want(t, r, path.HostCPU, "the Host's CPU is saturated")
		} else {
			want(t, r, path.SharedCPU, "share are saturated")
		}
	})
}

func TestSmallMTU(t *testing.T) {
	k := newCluster(t, 9000, "mtu = 1450")
	want(t, k.measure("runner-1"), path.MTU, "MTU 1450 on a 9000 underlay")
}

func want(t *testing.T, r *path.Report, cause path.Cause, says string) {
	t.Helper()
	if r.Verdict.Cause != cause || !strings.Contains(r.Verdict.Sentence, says) {
		t.Errorf("verdict %s: %q, want %s: %q", r.Verdict.Cause, r.Verdict.Sentence, cause, says)
	}
}

// interrupt begins a long measurement and presses Ctrl-C when it runs.
func (k *cluster) interrupt() {
	k.t.Helper()
	cmd := k.Hosts[runner2].Command(k.t.Context(), k.binary, "perf", "path", "runner-1", "-t", "30", "--host", k.api())
	check(k.t, cmd.Start())
	k.eventually("a measurement runs", func() bool { return slices.Contains(k.listening(theHost), api.PerfPort) })
	check(k.t, cmd.Process.Signal(syscall.SIGINT))
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		k.t.Errorf("interrupted: %v", err)
	}
}

// assertClosed wants every machine to listen on its usual ports only, not for
// measurements any more.
func (k *cluster) assertClosed(usual map[int][]uint16) {
	k.t.Helper()
	for m := range k.Hosts {
		k.eventually("port closed on "+k.Hosts[m].Name(), func() bool {
			return slices.Equal(k.listening(m), usual[m])
		})
	}
}

// listening lists the TCP ports that a machine listens on.
func (k *cluster) listening(machine int) (ports []uint16) {
	k.t.Helper()
	check(k.t, k.Hosts[machine].Do(func() error {
		for _, file := range []string{"tcp", "tcp6"} {
			b, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(b)) {
				var sl, local, remote, state string // proc_net_tcp: the state 0A is LISTEN
				if n, _ := fmt.Sscan(line, &sl, &local, &remote, &state); n == 4 && state == "0A" {
					_, hex, _ := strings.Cut(local, ":")
					port, err := strconv.ParseUint(hex, 16, 16)
					if err != nil {
						return err
					}
					ports = append(ports, uint16(port))
				}
			}
		}
		return nil
	}))
	slices.Sort(ports)
	return slices.Compact(ports)
}

func (k *cluster) eventually(what string, holds func() bool) {
	k.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.t.Fatalf("%s: it did not come to pass", what)
		}
	}
}

// limit makes a device send no faster than rate, in bit/s.
func limit(t *testing.T, p lab.Port, rate uint64) {
	t.Helper()
	l, err := p.Link()
	check(t, err)
	check(t, p.Node.Handle().QdiscReplace(&netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
		Rate:       rate / 8, Buffer: 64 << 10, Limit: 256 << 10,
	}))
}

func unlimit(t *testing.T, p lab.Port) {
	t.Helper()
	l, err := p.Link()
	check(t, err)
	check(t, p.Node.Handle().QdiscDel(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
		QdiscType:  "tbf",
	}))
}

// burners is how many threads contend with the Host's.
const burners = 6

// starveHost gives the Host the first processor, on which others work, too, and the
// Runners the rest, as if they had machines of their own; on a machine with only one
// processor there is no rest, and the Host is not alone.
func (k *cluster) starveHost() (release func(), alone bool) {
	k.t.Helper()
	var all, first, rest unix.CPUSet
	check(k.t, unix.SchedGetaffinity(0, &all))
	rest = all
	for cpu := range 64 * len(all) {
		if all.IsSet(cpu) {
			first.Set(cpu)
			if all.Count() > 1 {
				rest.Clear(cpu)
			}
			break
		}
	}
	k.confine(theHost, &first)
	k.confine(runner1, &rest)
	k.confine(runner2, &rest)
	var over atomic.Bool
	var group sync.WaitGroup
	for range burners {
		group.Go(func() {
			// Not unlocked: the thread, confined, ends with the goroutine.
			runtime.LockOSThread()
			if err := unix.SchedSetaffinity(0, &first); err != nil {
				k.t.Error(err)
			}
			for !over.Load() {
			}
		})
	}
	return func() {
		over.Store(true)
		group.Wait()
		for m := range k.daemons {
			k.confine(m, &all)
		}
	}, all.Count() > 1
}

// confine lets a daemon's threads, and those that they start, run on these
// processors only.
func (k *cluster) confine(machine int, to *unix.CPUSet) {
	k.t.Helper()
	dir := fmt.Sprintf("/proc/%d/task", k.daemons[machine].Process.Pid)
	entries, err := os.ReadDir(dir)
	check(k.t, err)
	for _, e := range entries {
		tid, err := strconv.Atoi(e.Name())
		check(k.t, err)
		if err := unix.SchedSetaffinity(tid, to); err != nil && !errors.Is(err, unix.ESRCH) { // it may end at any time
			k.t.Fatal(err)
		}
	}
}
