// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"kohaku/internal/api"
	"kohaku/internal/lab"
)

// The sections of the existing system's troubleshooting guide that are about who
// has which id. Each test provokes a section's cause. The topology is that of
// cluster_test.go.

// "Runner gets different subnet after restart", because it registered with a
// different hostname: it keeps its subnet, in whatever way it starts again.
func TestGuideDifferentSubnetAfterRestart(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	k.attachBoxes()
	k.checkReach()
	settings := string(must(os.ReadFile(k.config[runner1]))(t))
	rename := func(name string) {
		t.Helper()
		k.stop(runner1)
		k.waitActive("runner2")
		k.write("runner1.toml", strings.Replace(settings, "[runner]\n", fmt.Sprintf("[runner]\nname = %q\n", name), 1))
	}
	// Plainly renamed; and renamed over a reboot, which takes its devices away.
	rename("gpu-1")
	k.start(runner1)
	k.waitActive("gpu-1", "runner2")
	if got := k.ids(); got != "gpu-1=1/101/vxkr1/10.1.0.0/16 runner2=2/102/vxkr2/10.2.0.0/16" {
		t.Errorf("renamed: %s", got)
	}
	k.checkReachAs(netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.2.0.2"))
	if !strings.Contains(k.daemons[theHost].log(), "has another name than before") {
		t.Error("the Host does not say that a machine was renamed")
	}
	rename("gpu-one")
	check(t, k.Hosts[runner1].Delete("vxlan0"))
	k.start(runner1)
	k.waitActive("gpu-one", "runner2")
	if got := k.ids(); got != "gpu-one=1/101/vxkr1/10.1.0.0/16 runner2=2/102/vxkr2/10.2.0.0/16" {
		t.Errorf("renamed over a reboot: %s", got)
	}
	k.checkReachAs(netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("10.2.0.2"))
}

// "No available runner IDs": of a full table the runner that has been silent the
// longest makes room; while none is silent, the newcomer is told what to do.
func TestGuideNoAvailableRunnerIDs(t *testing.T) {
	// Three runners at most.
	k := newCluster(t, lab.UnderlayConfig{}, "[overlay]\nsubnet = \"10.0.0.0/8/2/22\"")
	k.start(theHost)
	k.start(runner1)
	ghosts := make(chan struct{})
	beating := make(chan struct{})
	// Two more that only exist as calls, the second one for longer.
	for i, name := range []string{"ghost1", "ghost2"} {
		q := api.RegisterRequest{Hostname: name, MachineID: strings.Repeat(fmt.Sprint(i+1), 32), Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(101 + i)})}
		var a api.RegisterAnswer
		check(t, k.send(http.MethodPost, api.PathRegister, q, &a))
		if a.RunnerID != i+2 {
			t.Fatalf("%s has id %d", name, a.RunnerID)
		}
	}
	beat := func(i int, name string) error {
		var a api.HeartbeatAnswer
		return k.send(http.MethodPut, api.PathHeartbeat+name, api.Heartbeat{
			MachineID: strings.Repeat(fmt.Sprint(i+1), 32), RunnerID: i + 2, Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(101 + i)}),
		}, &a)
	}
	go func() {
		defer close(beating)
		for {
			select {
			case <-ghosts:
				return
			case <-time.After(heartbeat / 2):
				for i, name := range []string{"ghost1", "ghost2"} {
					if err := beat(i, name); err != nil {
						t.Errorf("heartbeat of %s: %v", name, err)
						return
					}
				}
			}
		}
	}()
	d := k.launch(runner2)
	k.daemons[runner2] = d
	eventually(t, 20*time.Second, "the refusal", func() error {
		for _, want := range []string{"No available runner IDs", "all 3 are taken", "kohaku node overlay-release", "node bits"} {
			if !strings.Contains(d.log(), want) {
				return fmt.Errorf("the Runner does not say %q:\n%s", want, d.log())
			}
		}
		return nil
	})
	if got := k.ids(); !strings.Contains(got, "runner1=1/") || !strings.Contains(got, "ghost1=2/") || !strings.Contains(got, "ghost2=3/") {
		t.Errorf("the table is %s", got)
	}
	close(ghosts)
	<-beating
	if t.Failed() {
		t.FailNow()
	}
	// ghost2 was heard of last, so ghost1 makes room; runner1 lives.
	check(t, beat(1, "ghost2"))
	d.waitReady()
	k.waitActive("runner1", "runner2")
	if got := k.ids(); got != "runner1=1/101/vxkr1/10.64.0.0/10 runner2=2/102/vxkr2/10.128.0.0/10 ghost2=3/103/vxkr3/10.192.0.0/10" {
		t.Errorf("the table is %s", got)
	}
	if log := k.daemons[theHost].log(); !strings.Contains(log, "a runner's id is recycled") || !strings.Contains(log, "runner=ghost1") {
		t.Errorf("the Host does not say who made room:\n%s", log)
	}
}

// "Runner shows Inactive" after a restart of the Host: it is active again with its
// next heartbeat, without a restart, and its last use is counted on.
func TestGuideInactive(t *testing.T) {
	k := newCluster(t, lab.UnderlayConfig{})
	k.startAll()
	for _, end := range []func(){func() { k.stop(theHost) }, func() { k.kill(theHost) }} {
		end()
		k.start(theHost)
		restarted := time.Now()
		ids := k.ids()
		k.waitActive("runner1", "runner2")
		took := time.Since(restarted)
		t.Logf("active %v after the Host was ready; a heartbeat comes every %v", took.Round(time.Millisecond), heartbeat)
		if now := k.ids(); now != ids || !strings.Contains(now, "runner1=1/101") {
			t.Errorf("the table was %s, is %s", ids, now)
		}
		first := k.allocation("runner1").LastUsed
		eventually(t, 20*time.Second, "heartbeats", func() error {
			if a := k.allocation("runner1"); !a.LastUsed.After(first) || !a.IsActive {
				return fmt.Errorf("active %v, last used %v", a.IsActive, a.LastUsed)
			}
			return nil
		})
		for _, m := range []int{runner1, runner2} {
			select {
			case <-k.daemons[m].done:
				t.Errorf("%s has ended", k.daemons[m].name)
			default:
			}
		}
	}
	if out, err := k.Hosts[theHost].Command(t.Context(), must(kohakuBinary())(t), "node", "overlay", "--host", fmt.Sprintf("http://127.0.0.1:%d", apiPort)).Output(); err != nil ||
		strings.Contains(string(out), "Inactive") || strings.Count(string(out), "Active") != 2 {
		t.Errorf("kohaku node overlay: %v\n%s", err, out)
	}
}

// checkReachAs is checkReach for containers whose addresses are known.
func (k *cluster) checkReachAs(addrs ...netip.Addr) {
	k.t.Helper()
	for i, box := range k.boxes {
		for _, to := range []netip.Addr{addrs[1-i], netip.MustParseAddr("10.0.0.1"), k.Hosts[outside].V4} {
			reach(k.t, box, to)
		}
	}
}
